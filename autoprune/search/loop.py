"""The loop: ask, evaluate, tell."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from autoprune.analysis.early_stopping import EarlyStopper
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
        EvaluationError: if several candidates in a row fail, since the next would fail too.
    """
    done = list(ledger.trials)
    first = len(done)
    recent: deque[Trial] = deque(maxlen=FAILURES_IN_A_ROW)
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
        recent.append(trial)
        _raise_if_all_fail(recent)
    return len(done) - first


def _raise_if_all_fail(recent: deque[Trial]) -> None:
    failures = [trial.outcome for trial in recent if isinstance(trial.outcome, Failed)]
    if len(failures) == FAILURES_IN_A_ROW:
        last = failures[-1]
        raise EvaluationError(
            f"the last {len(failures)} candidates all failed, so the search ends here; the last one with "
            f"{last.error}: {last.message}. They are stored with their reasons; fix the cause and raise "
            f"--trials to go on\n{last.trace}".rstrip()
        )
