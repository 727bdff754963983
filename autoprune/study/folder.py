"""What lies where in a study's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autoprune.core.leftovers import remove_leftovers
from autoprune.errors import StudyError


@dataclass(frozen=True)
class StudyFolder:
    """The files of one study.

    Attributes:
        path: the folder; the user's ``study.toml`` may lie in it, and a run adds the rest.
    """

    path: Path

    @property
    def study_toml(self) -> Path:
        """Return the spec as the user wrote it; may be missing."""
        return self.path / "study.toml"

    @property
    def resolved(self) -> Path:
        """Return the spec with every value resolved, as the stored trials were made by it."""
        return self.path / "resolved.toml"

    @property
    def accepted_toml(self) -> Path:
        """Return where the values of ``study.toml`` lie that the last run accepted."""
        return self.path / "accepted_toml.json"

    @property
    def old_accepted_toml(self) -> Path:
        """Return where the same values lie in a study that no later version has searched yet."""
        return self.path / "recipe.json"

    @property
    def imported(self) -> Path:
        """Return which code the archive named that the study came as; missing if it was made here."""
        return self.path / "imported.json"

    @property
    def database(self) -> Path:
        """Return the SQLite ledger."""
        return self.path / "study.db"

    @property
    def lock(self) -> Path:
        """Return the file that every searching process holds locked, together with the others."""
        return self.path / "study.lock"

    @property
    def preparing(self) -> Path:
        """Return the file that the worker holds locked that prepares the study."""
        return self.path / "preparing.lock"

    @property
    def prepared(self) -> Path:
        """Return the file that lies there as soon as everything is stored that workers need: none waits for another."""
        return self.path / "prepared.json"

    @property
    def divided(self) -> Path:
        """Return the folder in which the worker that prepares the study lays out what others may do of it."""
        return self.path / "divided"

    @property
    def divided_int8(self) -> Path:
        """Return the same for the worker that scores networks in int8."""
        return self.path / "divided-int8"

    @property
    def crashes(self) -> Path:
        """Return the folder in which processes leave what they died of, while they evaluated a candidate."""
        return self.path / "crashes"

    @property
    def logging(self) -> Path:
        """Return the file that the worker holds locked that tells the loggers."""
        return self.path / "logging.lock"

    @property
    def timing(self) -> Path:
        """Return the file that the worker holds locked that asks another machine for latencies."""
        return self.path / "timing.lock"

    @property
    def quantising(self) -> Path:
        """Return the file that the worker holds locked that scores networks in int8."""
        return self.path / "quantising.lock"

    @property
    def log(self) -> Path:
        """Return what the searches of this study said, with times; older parts carry ``.1`` and ``.2``."""
        return self.path / "search.log"

    @property
    def dense_weights(self) -> Path:
        """Return the dense network's weights."""
        return self.path / "dense.safetensors"

    @property
    def rewind_weights(self) -> Path:
        """Return the weights that the dense network had early in its own training, where a study goes back to them."""
        return self.path / "rewind.safetensors"

    @property
    def sparse_weights(self) -> Path:
        """Return the dense network's weights after regularisation, with what it did among the metadata."""
        return self.path / "sparse.safetensors"

    @property
    def has_begun(self) -> bool:
        """Return whether there is a dense network made by the resolved spec: from then on its meaning is fixed."""
        return self.resolved.exists() and self.dense_weights.exists()

    @property
    def dense_facts(self) -> Path:
        """Return what was measured of the dense network, and where."""
        return self.path / "dense.json"

    @property
    def scores(self) -> Path:
        """Return the importance scores of every criterion and group."""
        return self.path / "scores.safetensors"

    @property
    def threshold(self) -> Path:
        """Return how far each group can be cut alone before the error rises by more than is tolerated."""
        return self.path / "threshold.json"

    @property
    def sensitivity(self) -> Path:
        """Return how much the loss rises when each group or block is cut alone."""
        return self.path / "sensitivity.json"

    @property
    def peak_rate(self) -> Path:
        """Return with which learning rate a pruned network was best after some steps, and how good with the others."""
        return self.path / "peak_rate.json"

    @property
    def template(self) -> Path:
        """Return the dense network's ONNX file, from which those of pruned ones are derived."""
        return self.path / "template.onnx"

    @property
    def moments(self) -> Path:
        """Return the second moments of what the dense network's layers read."""
        return self.path / "moments.safetensors"

    @property
    def screened(self) -> Path:
        """Return the networks that were looked at without training, a line for each look."""
        return self.path / "screened.jsonl"

    @property
    def latency_probes(self) -> Path:
        """Return the networks that were timed before the search, to learn what takes time."""
        return self.path / "latency.json"

    @property
    def teacher(self) -> Path:
        """Return the folder of the dense network's cached outputs."""
        return self.path / "teacher"

    @property
    def weights(self) -> Path:
        """Return the folder of the fine-tuned networks of trials, as far as they are kept."""
        return self.path / "weights"

    def trial_weights(self, number: int) -> Path:
        """Return the file of one trial's fine-tuned network."""
        return self.weights / f"{number}.safetensors"

    @property
    def picked(self) -> Path:
        """Return the folder of finished networks."""
        return self.path / "picked"

    @property
    def tensorboard(self) -> Path:
        """Return the folder of TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def mlflow_database(self) -> Path:
        """Return where MLflow tracks if it is not told to track elsewhere."""
        return self.path / "mlflow.db"

    @property
    def mlflow_artifacts(self) -> Path:
        """Return the folder of MLflow's artifacts."""
        return self.path / "mlflow-artifacts"

    @property
    def mlflow_parents(self) -> Path:
        """Return which MLflow run is the study's, for each place that it was tracked in."""
        return self.path / "mlflow.json"

    @property
    def wandb_run(self) -> Path:
        """Return which W&B run is the study's, and how many trials it has; W&B's own files lie in ``wandb/``."""
        return self.path / "wandb.json"

    def create(self) -> None:
        """Make the folder.

        Raises:
            StudyError: if it cannot be made or written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.write_bytes(b"")
            probe.unlink()
            for folder in (self.path, self.weights, self.teacher):
                remove_leftovers(folder)
        except OSError as error:
            raise StudyError(
                f"the study's folder {str(self.path)!r} cannot be written: {error.strerror or error}; "
                f"give another place with --root, or free the disk or its permissions"
            ) from error
