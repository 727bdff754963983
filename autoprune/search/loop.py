"""The loop: ask, evaluate, tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from autoprune.analysis.early_stopping import EarlyStopper
from autoprune.analysis.failures import SURE, sure_to_repeat
from autoprune.core.trial import Candidate, Failed, Trial
from autoprune.errors import EvaluationError
from autoprune.loggers.protocol import Observer
from autoprune.search.evaluation.evaluator import Evaluation
from autoprune.study.ledger import Ledger, Proposer

FAILURES_IN_A_ROW = 5


Evaluate = Callable[[Candidate, Callable[[str], None], EarlyStopper], Evaluation]


def search(ledger: Ledger, proposer: Proposer, evaluate: Evaluate, trials: int, seed: int, observer: Observer) -> int:
    """Evaluate candidates until the study holds ``trials`` finished ones; return how many were added.

    Killing the process at any point loses at most the evaluation that was running, and that candidate is
    asked again by the next run. Each is judged by the trials stored before it, so the next run judges it alike.

    Raises:
        EvaluationError: if the first candidates all fail for one cause, or several in a row for any, since the next
            would fail too.
    """
    done = list(ledger.trials)
    first = len(done)
    idle_since = time.perf_counter()
    while len(done) < trials:
        candidate = ledger.ask(proposer, seed)
        observer.asked(candidate)
        asked_at = time.perf_counter()
        evaluation = evaluate(candidate, observer.phase, EarlyStopper(candidate, tuple(done)))
        seconds = {"ask": asked_at - idle_since, **evaluation.seconds}
        idle_since = time.perf_counter()
        trial = ledger.tell(candidate, evaluation.outcome, seconds)
        observer.told(trial)
        done.append(trial)
        _raise_if_all_fail(done, done[first:])
    return len(done) - first


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
