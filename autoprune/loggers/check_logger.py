"""The contract of a logger, as one call: a search of every kind of trial, its end, and another session.

Steps for adding a logger: write a class with ``began``, ``told`` and ``ended`` as
:class:`Logger` has them; hold it to ``autoprune.testing.check_logger``; try it as
``--log path/to/file.py:Mine``; make it permanent with an entry point of your package in the group
``autoprune.loggers``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.policy import GroupPolicy, MaskPolicy, PruningPolicy
from autoprune.core.trial import KINDS, Candidate, Completed, Failed, Outcome, OverBudget, Stopped, Trial, Untimed
from autoprune.loggers.dispatch import make_logger
from autoprune.loggers.protocol import HowEnded, LoggedStudy, Logger
from autoprune.loggers.standing_tracker import StandingTracker

BUDGET = Budget.parse({"mflops": 50})
DENSE = Measurement({"accuracy": 0.95, "loss": 0.2, "mflops": 100.0, "latency_ms": 4.0}, {"accuracy": 0.01})
QUALITY = Measurement({"accuracy": 0.9, "loss": 0.3}, {"accuracy": 0.02})
OBJECTIVES = ("accuracy", "mflops")


def example_trials() -> tuple[Trial, ...]:
    """Return one trial of every outcome and two more, with names and messages that are not plain."""
    good = Measurement(
        {"accuracy": 0.9, "loss": 0.3, "mflops": 49.0, "mparams": 1.0, "latency_ms": 2.0, "size_mb": 4.0},
        {"accuracy": 0.02, "loss": 0.01, "latency_ms": 0.1},
    )
    costs = Measurement({"mflops": 60.0, "mparams": 1.2, "size_mb": 4.8})
    outcomes: tuple[Outcome, ...] = (
        Completed(good),
        OverBudget(costs, {"mflops": 0.2}),
        Stopped("its validation loss after recalibration is nan", costs),
        Failed("NonFiniteError", "the loss is NaN\nat step 3: 'a' <b> é", "Traceback"),
        Completed(good.merged(Measurement({"accuracy": 0.92})), spared="it would have been stopped"),
        Completed(good.merged(Measurement({"accuracy": 0.91}))),
        Untimed("the latency command 'ssh pi' did not answer within 600 s", costs.merged(QUALITY)),
    )
    return tuple(_trial(number, outcome) for number, outcome in enumerate(outcomes))


def _trial(number: int, outcome: Outcome) -> Trial:
    groups = {"layer1.0.conv1": GroupPolicy(0.5, "l1"), "head:é": GroupPolicy(0.1 * number, "my.module:score")}
    mask = MaskPolicy("weight", "magnitude", {"fc": 0.5}) if number % 2 else None
    policy = PruningPolicy(groups, dropped_blocks=("layer2.1",) if number else (), mask=mask)
    candidate = Candidate(number, policy, 7, "baseline:uniform" if number == 0 else "guided:drawn", BUDGET)
    return Trial(candidate, outcome, {"ask": 0.25, "finetune": 1.5, "other": 0.0}, 0)


def example_study(folder: Path) -> LoggedStudy:
    """Return the study that those trials belong to."""
    settings: dict[str, object] = {"seed": 0, "finetune.lr": 0.03, "objectives": list(OBJECTIVES), "model.weights": ""}
    return LoggedStudy(
        "example", folder, OBJECTIVES, BUDGET, DENSE, len(example_trials()), "auto", settings, {"torch": "2.0"}
    )


def check_logger(factory: Callable[[], Logger] | str, folder: Path) -> None:
    """Raise if a logger breaks its contract in two sessions of a made-up study.

    The logger must take trials of every outcome, and hold none before it gets the first. Another logger that the same
    factory makes for the next session must hold what the first one got, so that nothing is logged twice.

    Args:
        factory: what is called without arguments, or a name as for ``--log``.
        folder: an empty folder, for the study.

    Raises:
        AssertionError: if the contract is broken; the message says how.
        UsageError: if a logger of that name cannot be made.
    """
    trials, study = example_trials(), example_study(folder)
    _session(factory, study, trials[: len(KINDS)], 0, "interrupted")
    _session(factory, study, trials[: len(KINDS)], len(KINDS), "failed")  # nothing is new, as in a finished study
    _session(factory, study, trials, len(KINDS), "finished")
    _session(factory, study, trials, len(trials), "finished")


def _session(
    factory: Callable[[], Logger] | str, study: LoggedStudy, trials: tuple[Trial, ...], known: int, how: HowEnded
) -> None:
    """Log to a new logger the trials after the first ``known``; it must hold exactly those before."""
    logger = make_logger(factory) if isinstance(factory, str) else factory()
    course = StandingTracker(study.objectives, study.budget, study.dense, study.qualities[0])
    held = set(logger.began(study, trials[:known]))
    expected = {trial.number for trial in trials[:known]}
    if held != expected:
        raise AssertionError(
            f"{type(logger).__name__}.began holds the trials {sorted(held)} where it was given {sorted(expected)} "
            f"in earlier sessions; return the numbers of those that are logged already, and no others"
        )
    for trial in trials:
        course.add(trial)
        if trial.number >= known:
            logger.told(trial, course.standing)
    logger.ended(how)
