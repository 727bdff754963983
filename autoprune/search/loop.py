"""The loop: ask, evaluate, tell. Every worker of a study runs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from autoprune.analysis.early_stopping import EarlyStopper
from autoprune.analysis.failures import SURE, sure_to_repeat
from autoprune.core.notify import Notify
from autoprune.core.trial import Candidate, Failed, Trial, Untimed
from autoprune.errors import EvaluationError, LeaseLostError
from autoprune.loggers.protocol import Observer
from autoprune.search.evaluation.evaluator import Evaluation
from autoprune.study.ledger import Ledger, Proposer

FAILURES_IN_A_ROW = 5
PAUSE_SECONDS = 0.5  # between two looks at whether other workers have finished
WAITING = "waiting for the other workers"


Evaluate = Callable[[Candidate, Callable[[str], None], EarlyStopper], Evaluation]


class Later(Protocol):
    """What has trials timed that were told without a latency."""

    def hand_over(self) -> None:
        """Store the latencies that have come, and ask for further ones; called before every candidate."""

    def drain(self) -> None:
        """Wait for the latencies that are still to come; called after the last candidate."""


def search(
    ledger: Ledger,
    proposer: Proposer,
    evaluate: Evaluate,
    trials: int,
    seed: int,
    observer: Observer,
    warn: Notify,
    later: Later | None = None,
) -> int:
    """Evaluate candidates until the study holds ``trials`` finished ones; return how many were added here.

    Killing the process at any point loses at most the evaluation that was running, and that candidate is
    asked again by the next run, or by another worker. Each is judged by the trials stored before it, so whoever takes
    it over judges it alike. A worker that finds nothing to ask waits until the others have finished, because one of
    them may die.

    Args:
        ledger: open.
        proposer: decides what is evaluated.
        evaluate: never raises, except for an interrupt.
        trials: that the study is to hold in all; the largest number that any of its workers was started with counts.
        seed: the study's seed.
        observer: sees every trial, those of other workers too, as soon as this one looks.
        warn: called with a sentence if what was evaluated here comes too late.
        later: has trials timed on another machine while the search goes on, of which an observer sees none before it is
            timed or the search ends; ``None``: all are timed when they are told.

    Raises:
        EvaluationError: if the first candidates all fail for one cause, or several in a row for any, since the next
            would fail too.
    """
    course = _Course(ledger, observer, withholds=later is not None)
    added, idle_since = 0, time.perf_counter()
    while len(course.trials) < (wanted := ledger.wanted(trials)):
        if later is not None:
            later.hand_over()
        candidate = ledger.ask_within(proposer, seed, wanted)
        if candidate is None:
            observer.phase(WAITING)
            time.sleep(PAUSE_SECONDS)
            course.see_news()
            continue
        observer.asked(candidate)
        asked_at = time.perf_counter()
        course.see_news()
        evaluation = evaluate(candidate, observer.phase, EarlyStopper(candidate, tuple(course.trials)))
        seconds = {"ask": asked_at - idle_since, **evaluation.seconds}
        idle_since = time.perf_counter()
        try:
            ledger.tell(candidate, evaluation.outcome, seconds)
            added += 1
        except LeaseLostError as late:
            warn(str(late))
        course.see_news()
        _raise_if_all_fail(course.trials, course.of_run)
    if later is not None:
        later.drain()
        course.see_news(withholds=False)
    return added


class _Course:
    """The finished trials as this worker has seen them, each shown once.

    Args:
        ledger: where they are stored; what it holds now was seen before.
        observer: shown every further one.
        withholds: whether one that waits for its latency is shown only when it has it.
    """

    def __init__(self, ledger: Ledger, observer: Observer, *, withholds: bool) -> None:
        self._ledger, self._observer, self._withholds = ledger, observer, withholds
        self.trials = list(ledger.trials)
        self._first = len(self.trials)
        self._places = {trial.number: place for place, trial in enumerate(self.trials)}
        self._shown = set(self._places)

    @property
    def of_run(self) -> Sequence[Trial]:
        """Return those that came while this worker was here."""
        return self.trials[self._first :]

    def see_news(self, *, withholds: bool = True) -> None:
        """See what has come since: trials, and latencies of those that had none."""
        for trial in self._ledger.trials:
            place = self._places.setdefault(trial.number, len(self.trials))
            self.trials[place : place + 1] = [trial]
            waits = self._withholds and withholds and isinstance(trial.outcome, Untimed)
            if trial.number not in self._shown and not waits:
                self._shown.add(trial.number)
                self._observer.told(trial)


def _raise_if_all_fail(trials: Sequence[Trial], of_run: Sequence[Trial]) -> None:
    cause = sure_to_repeat(trials, of_run)
    recent = of_run[-(SURE if cause else FAILURES_IN_A_ROW) :]
    failures = [trial.outcome for trial in recent if isinstance(trial.outcome, Failed)]
    if cause is None and len(failures) < FAILURES_IN_A_ROW:
        return
    if cause is not None:
        said = f"the first {SURE} candidates all failed for one cause, so the next would too: {cause.describe()}"
    else:
        last = failures[-1]
        said = f"the last {len(failures)} candidates all failed; the last one with {last.error}: {last.message}"
    what_next = (
        "The search ends here; the failed trials are stored with their reasons. Repair the cause, then the same "
        "command goes on with other candidates (raise --trials if it has none left)"
    )
    raise EvaluationError(f"{said}. {what_next}\n{failures[-1].trace}".rstrip())
