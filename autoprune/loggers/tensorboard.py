"""Log to TensorBoard: scalars by trial number, the policy as text, and each trial under HPARAMS.

Everything lies in the study's ``tensorboard/``, which belongs to this logger: one event file per session, and a small
folder for each trial's hyper-parameters. How many trials are logged, and how long the files were then, is written after
each trial is on disk; what is longer when a session begins was left by a process that was killed, and is cut off.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from autoprune.core.atomic_write import write_text
from autoprune.core.json_values import DAMAGE, parse_json
from autoprune.core.metrics import METRICS
from autoprune.core.trial import Completed, Trial
from autoprune.loggers.console import how_it_ended
from autoprune.loggers.flatten import chosen_of, measured_of, seconds_of, standing_of, values_of
from autoprune.loggers.protocol import HowEnded, LoggedStudy, Standing, missing_library
from autoprune.study.folder import StudyFolder

LOGGED = "logged.json"


class TensorBoardLogger:
    """A logger that writes event files, which ``tensorboard --logdir`` shows.

    Raises:
        UsageError: if the library is not installed.
    """

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing_library("tensorboard", error) from error
        self._make_writer: Any = SummaryWriter
        self._writer: Any = None
        self._study: LoggedStudy | None = None

    def began(self, study: LoggedStudy, stored: Sequence[Trial]) -> Collection[int]:
        """Return the numbers of the trials logged by earlier sessions; nothing is written before there is a trial."""
        self._study, self._folder = study, StudyFolder(study.folder).tensorboard
        self._next = _cut_off(self._folder)
        if self._next > max((trial.number for trial in stored), default=-1) + 1:  # these were another study's trials
            (self._folder / LOGGED).unlink()
            self._next = _cut_off(self._folder)
        return range(self._next)

    def told(self, trial: Trial, standing: Standing) -> None:
        """Write a trial, wait until it is on disk, and count it."""
        if self._study is None:
            raise RuntimeError("told before began; this is a bug in autoprune")
        writer = self._writer or self._open(self._study)
        for tag, value in _scalars(trial, standing).items():
            writer.add_scalar(tag, value, trial.number)
        writer.add_text("policy", _policy_text(trial, self._study), trial.number)
        self._add_hparams(writer, trial)
        writer.flush()
        self._next = trial.number + 1
        lengths = {path.name: path.stat().st_size for path in _event_files(self._folder)}
        write_text(self._folder / LOGGED, json.dumps({"next": self._next, "lengths": lengths}))

    def ended(self, how: HowEnded) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self, study: LoggedStudy) -> Any:
        """Begin this session's event file."""
        self._writer = writer = self._make_writer(str(self._folder))
        writer.add_text("study", _study_text(study), self._next)
        if not self._next:
            for name, value in values_of(study.dense).items():
                writer.add_scalar(f"dense/{name}", value, 0)
        return writer

    def _add_hparams(self, writer: Any, trial: Trial) -> None:
        """Write a completed trial as a run of its own, as TensorBoard compares runs by hyper-parameters."""
        if not isinstance(trial.outcome, Completed):
            return
        name = f"trials/{trial.number:05d}"
        shutil.rmtree(self._folder / name, ignore_errors=True)  # begun by a process that was killed
        metrics = {f"hparam/{metric}": value for metric, value in trial.outcome.measurement.values.items()}
        chosen = {name: value for name, value in chosen_of(trial).items() if name != "seed"}  # nothing to compare by
        writer.add_hparams(chosen, metrics, run_name=name, global_step=trial.number)


def _event_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("events.out.tfevents.*"))


def _cut_off(folder: Path) -> int:
    """Bring event files to the lengths they had when the last trial was logged whole; return the number of the next.

    Without that record, or if it is damaged, all are deleted and 0 is returned: everything is logged again.
    """
    try:
        record = parse_json((folder / LOGGED).read_text(encoding="utf-8"))
        following, lengths = int(record["next"]), {str(name): int(size) for name, size in record["lengths"].items()}
    except (OSError, *DAMAGE):
        following, lengths = 0, {}
    if not following:
        shutil.rmtree(folder / "trials", ignore_errors=True)
    for path in _event_files(folder):
        if path.name not in lengths:
            path.unlink()
        elif path.stat().st_size > lengths[path.name]:
            os.truncate(path, lengths[path.name])
    return following


def _scalars(trial: Trial, standing: Standing) -> dict[str, float]:
    """Return tag → value; what stands before the slash is a section in TensorBoard."""
    costs = {name for name, metric in METRICS.items() if metric.is_cost}
    found = {
        f"{'cost' if name.removesuffix('_stderr') in costs else 'quality'}/{name}": value
        for name, value in measured_of(trial).items()
    }
    found |= {f"seconds/{phase}": value for phase, value in seconds_of(trial).items()}
    return found | standing_of(standing)


def _policy_text(trial: Trial, study: LoggedStudy) -> str:
    """Return how a trial came and went, and its policy, as Markdown."""
    groups = trial.candidate.policy.groups.items()
    lines = [
        f"**trial {trial.number}**, {trial.candidate.origin}, for {trial.candidate.budget.describe()}: "
        f"{how_it_ended(trial, study.dense, study.qualities)}",
        "",
        "| group | sparsity | criterion |",
        "|---|---|---|",
        *(f"| {name} | {group.sparsity:.4f} | {group.importance} |" for name, group in groups),
        "",
        "```json",
        trial.candidate.policy.to_json(),
        "```",
    ]
    return "\n".join(lines)


def _study_text(study: LoggedStudy) -> str:
    """Return what is searched, as Markdown."""
    rows = {
        "study": study.name,
        "budget": study.budget.describe(),
        "sampler": study.sampler,
        "trials": str(study.wanted),
        **{f"dense {name}": _shown(name, value) for name, value in study.dense.values.items()},
        **study.versions,
        **{key: str(value) for key, value in study.settings.items()},
    }
    return "\n".join(["| what | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _shown(name: str, value: float) -> str:
    return METRICS[name].show(value) if name in METRICS else f"{value:g}"
