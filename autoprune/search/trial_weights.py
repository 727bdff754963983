"""The fine-tuned networks of trials on disk: written when a trial is completed, removed as the front moves on.

A file ``weights/<number>.safetensors`` is written before its trial is stored, in one step, by the process that
evaluated it; ``analysis.weight_retention`` decides which of them stay. A kill can leave a half-written neighbour, a
file whose trial was never stored, or one that was due to go: the next start removes all three. A full disk does not
end a search.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open
from torch import nn

from autoprune.analysis.weight_retention import retained_trials
from autoprune.core.atomic_write import write_bytes
from autoprune.core.budget import Budget
from autoprune.core.json_values import DAMAGE, parse_json
from autoprune.core.leftovers import is_alive
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import ACCURACY, Metric
from autoprune.core.trial import Candidate, Completed, Trial, Untimed
from autoprune.errors import ModelError, StudyError
from autoprune.export.architecture import Architecture, PrunedArchitecture
from autoprune.export.saved_network import rebuild, weights_content
from autoprune.loggers.protocol import Observer
from autoprune.pruning.surgery import Pruner
from autoprune.study.folder import StudyFolder
from autoprune.study.later_latencies import untimed

KeepWeights = Literal["front", "all", "none"]
_ARCHITECTURE, _OLD_ARCHITECTURE = "architecture", "recipe"  # keys of it among a file's metadata, now and at first
_HALF_WRITTEN = re.compile(r"\.\d+\.safetensors\.(?P<process>\d+)\.tmp")  # as core.atomic_write names what it has begun


@dataclass
class TrialWeights:
    """The stored networks of one running search.

    Attributes:
        folder: the study's.
        keep: whose weights are kept.
        objectives: metric names that the front trades.
        budget: absolute limits of this run.
        warn: called with a sentence, and only once, if something cannot be written or removed.
        quality: what trials within a budget are ranked by.
        dense: what was measured of the dense network.
    """

    folder: StudyFolder
    keep: KeepWeights
    objectives: Sequence[str]
    budget: Budget
    warn: Callable[[str], None]
    quality: Metric = ACCURACY
    dense: Measurement | None = None
    _has_warned: bool = field(default=False, init=False)

    def writer(
        self, pruner: Pruner, architecture: Architecture, versions: dict[str, str], check_place: Callable[[], None]
    ) -> Callable[[Candidate, nn.Module], None] | None:
        """Return what stores a completed candidate's network; ``None`` if none is to be stored.

        Args:
            pruner: cuts candidates' networks.
            architecture: how the dense network is built.
            versions: package → version.
            check_place: called before a file is written; raises if the study was deleted, moved or replaced.
        """
        if self.keep == "none":
            return None

        def write(candidate: Candidate, network: nn.Module) -> None:
            policy = candidate.policy
            pruned = PrunedArchitecture.of(network, pruner.cut(policy), architecture, policy, versions)
            content = weights_content(network, {_ARCHITECTURE: json.dumps(pruned.to_json())})
            check_place()
            try:
                write_bytes(self.folder.trial_weights(candidate.number), content)
            except StudyError as error:
                self._warn_once(f"{error}. The search goes on without storing these weights")

        return write

    def begin(self, trials: Sequence[Trial], pending: Collection[int] = ()) -> None:
        """Remove what an earlier run left: half-written files, those of trials that are not stored, and obsolete ones.

        Where no trial is stored at all, as where another storage was given by mistake, whole files stay.

        Args:
            trials: the finished ones.
            pending: numbers of those that other workers evaluate now; their files stay, too.
        """
        kept = self._kept(trials) | set(pending)
        for path in _listed(self.folder.weights):
            number = number_of(path)
            half_written = _HALF_WRITTEN.fullmatch(path.name)
            if half_written and is_alive(int(half_written["process"])):
                continue  # another worker writes it now
            if (trials and number is not None and number not in kept) or half_written:
                self._remove(path)

    def remove_obsolete(self, trials: Sequence[Trial]) -> None:
        """Remove the files of finished trials that are not worth keeping; files of other trials stay."""
        gone = {trial.number for trial in trials} - self._kept(trials)
        for path in _listed(self.folder.weights):
            if number_of(path) in gone:
                self._remove(path)

    def _kept(self, trials: Sequence[Trial]) -> set[int]:
        match self.keep:
            case "all":
                return {trial.number for trial in trials if isinstance(trial.outcome, Completed | Untimed)}
            case "none":
                return set()
            case _:
                waiting = {trial.number for trial in untimed(trials)}  # who knows whether they will be on the front
                return waiting | retained_trials(trials, self.objectives, self.budget, self.quality, self.dense)

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._warn_once(f"{str(path)!r} is not needed any more and cannot be removed: {error.strerror or error}")

    def watch(self, observer: Observer, trials: Sequence[Trial]) -> Observer:
        """Return an observer that removes obsolete files after every trial, and passes everything on to another one.

        Args:
            observer: the other one.
            trials: finished before the search begins.
        """
        return _Watching(observer, self, list(trials))

    def _warn_once(self, message: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            self.warn(message)


@dataclass
class _Watching:
    """An observer that passes everything on, and removes obsolete files after a trial that could move the front."""

    observer: Observer
    weights: TrialWeights
    trials: list[Trial]

    def asked(self, candidate: Candidate) -> None:
        self.observer.asked(candidate)

    def phase(self, name: str) -> None:
        self.observer.phase(name)

    def told(self, trial: Trial) -> None:
        self.trials.append(trial)
        if isinstance(trial.outcome, Completed) and self.weights.keep == "front":
            self.weights.remove_obsolete(self.trials)
        self.observer.told(trial)


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # not there yet; where it cannot be read, writing into it says so
        return []


def number_of(path: Path) -> int | None:
    """Return whose weights a file holds; ``None`` for one that is half-written or not ours.

    >>> number_of(Path("weights/17.safetensors")), number_of(Path("weights/.17.safetensors.4242.tmp"))
    (17, None)
    """
    return int(path.stem) if path.suffix == ".safetensors" and path.stem.isdecimal() else None


def stored_numbers(folder: StudyFolder) -> list[int]:
    """Return the trials whose weights are stored, by number."""
    return sorted(number for path in _listed(folder.weights) if (number := number_of(path)) is not None)


def load_trial(
    study: str | Path, number: int, network: nn.Module | None = None, *, trust_code: bool = False
) -> nn.Module:
    """Return a trial's network with the very weights that were measured in the search, without pickle.

    It is in eval mode, on the CPU, and can be trained on.

    Args:
        study: the study's folder.
        number: of the trial.
        network: the dense architecture, needed only if the code it was built by cannot be found here; its
            weights do not matter and it is not modified.
        trust_code: whether the code that the file of weights names, such as ``net.py:build``, is run to build the dense
            network. Built-in networks, installed plug-ins and torchvision's need no trust.

    Raises:
        StudyError: if the trial's weights are not kept.
        ModelError: if the file is damaged, or the architecture is not the one that was pruned.
        UnknownNameError: if the architecture's name is not known here and no network was given.
        UntrustedCodeError: if the file names code, and neither trust nor a network was given.
    """
    folder = StudyFolder(Path(study))
    path = folder.trial_weights(number)
    if not path.is_file():
        raise _not_kept(folder, number)
    return rebuild(_read_architecture(path), path, network, trust_code=trust_code)


def check_kept(folder: StudyFolder, trial: Trial, machine: str = "") -> None:
    """Raise unless a trial's weights are stored, and were pruned by its policy.

    Args:
        folder: of the study.
        trial: completed.
        machine: another one that evaluated it, for the message; empty for this one.

    Raises:
        StudyError: if they are not.
        ModelError: if the file is damaged.
    """
    path = folder.trial_weights(trial.number)
    if not path.is_file():
        raise _not_kept(folder, trial.number, machine)
    if _read_architecture(path).policy != trial.candidate.policy:
        raise StudyError(
            f"{str(path)!r} holds another policy than trial {trial.number} of this study; delete it, or give the "
            f"--storage that it was searched with"
        )


def _not_kept(folder: StudyFolder, number: int, machine: str = "") -> StudyError:
    known = ", ".join(map(str, stored_numbers(folder))) or "none"
    command = f"autoprune pick {shlex.quote(str(folder.path))} --trial {number}"
    elsewhere = f" It was evaluated on {machine}, whose folder of the study may hold them." if machine else ""
    return StudyError(
        f"the weights of trial {number} are not kept in {str(folder.path)!r} (kept: {known}).{elsewhere} `{command}` "
        f"fine-tunes it anew; a search with --keep-weights all keeps those of every further trial"
    )


def _read_architecture(path: Path) -> PrunedArchitecture:
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata()
        return PrunedArchitecture.from_json(parse_json(facts.get(_ARCHITECTURE) or facts[_OLD_ARCHITECTURE]))
    except (OSError, SafetensorError, *DAMAGE) as error:
        raise ModelError(
            f"{str(path)!r} is damaged ({type(error).__name__}: {error}); delete it, and pick the trial, which "
            f"fine-tunes it anew"
        ) from error
