"""Log to Weights & Biases: one run per study, in which every trial is a step.

Files lie in the study's ``wandb/``, whether they are uploaded or, with ``WANDB_MODE=offline``, only written. A resumed
study continues in the same run: on a server, the run itself says which step comes next; offline, a small file in the
study's folder does, which is written once a trial is on disk. The step is the trial's number, so that a trial that
reaches a server twice counts once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from autoprune.core.trial import Trial, kind_of
from autoprune.errors import UsageError
from autoprune.loggers.flatten import measured_of, reason_of, seconds_of, standing_of, values_of
from autoprune.loggers.protocol import HowEnded, LoggedStudy, Standing, missing_library
from autoprune.loggers.wandb_memory import WandbMemory, read_memory
from autoprune.loggers.wandb_settings import (
    FLUSH_SECONDS,
    PROJECT,
    check_login,
    flushes,
    is_offline,
    place_of,
    run_settings,
)
from autoprune.study.folder import StudyFolder

NUMBER = "trial"  # the x axis of every chart
_EXIT_CODES: Mapping[HowEnded, int] = {"finished": 0, "interrupted": 255, "failed": 1}  # W&B calls 255 "killed"
_LONGEST_WAIT = 30.0  # seconds until a trial has to be on disk
_ROOMS = ("session", "versions", "dense")  # of a run's config, beside the study's settings


class WandbLogger:
    """A logger that opens a run of its own, beside any that the user has open.

    Raises:
        UsageError: if the library is not installed, its settings are wrong, or there is no key and no offline mode.
    """

    def __init__(self) -> None:
        try:
            import wandb
            from wandb import Settings  # a folder named wandb, as W&B leaves them about, is no library
        except ImportError as error:
            raise missing_library("wandb", error) from error
        self._wandb: Any = wandb
        wandb.termsetup(Settings(silent=True), None)
        try:
            self._general: Any = wandb.setup().settings
        except ValueError as error:  # of pydantic, in several lines
            raise UsageError(
                f"W&B does not take its settings: {_faults(error)}; correct them, or unset them"
            ) from error
        finally:
            self._speak_again()
        check_login(wandb, self._general)
        self._place = place_of(wandb, self._general)
        self._run: Any = None
        self._study: LoggedStudy | None = None
        self._memory = WandbMemory()
        self._best: int | None = None

    def began(self, study: LoggedStudy, stored: Sequence[Trial]) -> Collection[int]:
        """Return the trials that the study's run has; offline, no run is opened before there is a trial to log."""
        self._study = study
        following = max((trial.number for trial in stored), default=-1) + 1
        if self._general.mode == "disabled":
            return range(following)
        self._memory = read_memory(StudyFolder(study.folder).wandb_run, following)
        if is_offline(self._general):
            return range(self._memory.following.get(self._place, 0))
        run = self._open(study)
        if run.starting_step > following:  # trials that the study lacks, because it was started again
            run.finish(exit_code=_EXIT_CODES["failed"])
            self._memory = WandbMemory()
            run = self._open(study)
        return range(run.starting_step)

    def told(self, trial: Trial, standing: Standing) -> None:
        """Log a trial as a step, wait until it is on disk, and count it."""
        if self._study is None:
            raise RuntimeError("told before began; this is a bug in autoprune")
        if self._general.mode == "disabled":
            return
        run = self._run or self._open(self._study)
        file = Path(run.settings.sync_file)
        size = _size(file)
        run.log({**_row(trial), **standing_of(standing)}, step=trial.number, commit=True)
        if standing.best is not None and standing.best.number != self._best:
            self._best = standing.best.number
            run.summary["best/policy"] = standing.best.candidate.policy.to_json()
        if flushes(self._wandb):
            _wait_until_written(file, size)
        self._memory = self._memory.logged(self._place, trial.number + 1)
        self._memory.write(StudyFolder(self._study.folder).wandb_run)

    def ended(self, how: HowEnded) -> None:
        """Finish the run; a later session continues it."""
        if self._run is None:
            return
        try:
            self._run.finish(exit_code=_EXIT_CODES[how])
        finally:
            self._run = None
            self._speak_again()

    def _open(self, study: LoggedStudy) -> Any:
        """Open this session's part of the study's run, with what is known of the study."""
        general = self._general
        self._wandb.termsetup(self._wandb.Settings(silent=True), None)
        try:
            self._run = run = self._wandb.init(
                project=general.project or PROJECT,
                name=general.run_name or study.name,
                id=self._memory.run,
                resume="allow",
                dir=str(study.folder.absolute()),
                tags=list(dict.fromkeys((PROJECT, *(general.run_tags or ())))),
                settings=run_settings(self._wandb, general),
            )
        except BaseException:
            self._speak_again()
            raise
        self._memory.write(StudyFolder(study.folder).wandb_run)
        run.config.update(_config(study), allow_val_change=True)
        run.define_metric(NUMBER)
        run.define_metric("*", step_metric=NUMBER)
        run.summary.update({f"dense/{name}": value for name, value in values_of(study.dense).items()})
        return run

    def _speak_again(self) -> None:
        """Let W&B print what the user's own settings say, for runs that are not ours."""
        with suppress(ValueError):
            self._wandb.termsetup(self._wandb.setup().settings, None)


def _faults(error: ValueError) -> str:
    """Return what pydantic found wrong, without the values, which may be secret."""
    found = error.errors() if hasattr(error, "errors") else []
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in found) or str(error)


def _row(trial: Trial) -> dict[str, float | str]:
    """Return what a step says of a trial."""
    row: dict[str, float | str] = {NUMBER: trial.number}
    row |= {f"trial/{name}": value for name, value in measured_of(trial).items()}
    row |= {f"seconds/{phase}": value for phase, value in seconds_of(trial).items()}
    row |= {"trial/outcome": kind_of(trial.outcome), "trial/origin": trial.candidate.origin}
    row |= {"trial/reason": reason} if (reason := reason_of(trial)) else {}
    return row | {"trial/policy": trial.candidate.policy.to_json()}


def _config(study: LoggedStudy) -> dict[str, object]:
    """Return a run's config: the study's settings, nested as W&B shows them best, and what may change of a session."""
    config = _nested(study.settings)
    session = {"budget": study.budget.describe(), "sampler": study.sampler, "trials": study.wanted}
    about = (session, dict(study.versions), values_of(study.dense))
    for room, values in zip(_ROOMS, about, strict=True):
        config[room] = values
    return config


def _nested(settings: Mapping[str, object]) -> dict[str, object]:
    """Return settings with dotted keys as dictionaries in one another; a key that is also a section stays dotted.

    >>> _nested({"seed": 0, "finetune.lr": 0.1, "finetune.epochs": 2, "data": "digits", "data.split": 0.2})
    {'seed': 0, 'finetune': {'lr': 0.1, 'epochs': 2}, 'data': 'digits', 'data.split': 0.2}
    """
    nested: dict[str, object] = {}
    for key, value in settings.items():
        section, dot, rest = key.partition(".")
        plain = json.loads(json.dumps(value, default=str))
        room = nested.setdefault(section, {}) if dot and section not in settings else None
        if isinstance(room, dict):
            room[rest] = plain
        else:
            nested[key] = plain
    return nested


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _wait_until_written(file: Path, size: int) -> None:
    """Wait until a file has grown beyond ``size``, and has stopped growing for as long as a write may be late.

    Raises:
        TimeoutError: if it does not grow.
    """
    end = time.monotonic() + _LONGEST_WAIT
    last, since = size, time.monotonic()
    while last == size or time.monotonic() - since <= 1.5 * FLUSH_SECONDS:
        if time.monotonic() > end:
            raise TimeoutError(f"W&B did not write a trial to {str(file)!r} within {_LONGEST_WAIT:g} seconds")
        time.sleep(FLUSH_SECONDS / 10)
        if (now := _size(file)) != last:
            last, since = now, time.monotonic()
