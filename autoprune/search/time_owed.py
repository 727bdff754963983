"""Timing what a search could not: the latencies that another machine owes, asked for again.

A latency does not depend on weights, so that any trial's network is cut anew from the dense one by its policy, and
nothing is trained.
"""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.core.metrics import register
from autoprune.core.notify import Notify
from autoprune.core.trial import HostLatency
from autoprune.errors import TimingError
from autoprune.loggers.protocol import Display
from autoprune.search.evaluation.latency_meter import LatencyMeter
from autoprune.search.latency_queue import own_first
from autoprune.search.setup.build_evaluator import build_meter
from autoprune.search.setup.from_spec import resolve
from autoprune.search.setup.prepare_study import prepare_study
from autoprune.search.setup.prepared_study import PreparedStudy
from autoprune.search.stored_spec import check_same_meaning, stored_meaning, with_stored_choices
from autoprune.study.folder import StudyFolder
from autoprune.study.later_latencies import untimed
from autoprune.study.ledger import Ledger
from autoprune.study.named_code import check_code_is_trusted
from autoprune.study.spec import StudySpec
from autoprune.study.view import storage_url


@dataclass(frozen=True)
class LaterTimings:
    """What came of asking again.

    Attributes:
        timed: trials that have their latency now.
        owed: trials that still lack it.
        host: name of the machine that times; empty if nothing was owed.
    """

    timed: int
    owed: int
    host: str = ""


def time_owed(
    spec: StudySpec, folder: StudyFolder, display: Display, storage: str | None = None, *, trust_code: bool = False
) -> LaterTimings:
    """Have the networks timed whose latency is lacking; again, what is left. Safe beside a running search.

    Args:
        spec: of the stored study; its ``latency.command`` may have changed.
        folder: where it is stored.
        display: shows what happens.
        storage: Optuna storage URL of its trials; ``None`` for SQLite in the folder.
        trust_code: whether code may be run that an imported study names; remembered.

    Raises:
        StudyMismatchError: if the spec would change the meaning of the stored trials.
        UntrustedCodeError: if the study was imported, and its code has never been allowed.
        AutopruneError: if the network, the data or the folder cannot be used.
    """
    check_code_is_trusted(folder, spec, trust_code=trust_code)
    spec = with_stored_choices(resolve(spec), folder)
    register(spec.qualities)
    check_same_meaning(stored_meaning(folder), spec, folder)
    with Ledger(storage_url(folder, storage), spec.name, spec.objectives, folder.lock) as ledger:
        if not untimed(ledger.trials):
            return LaterTimings(0, 0)
        study = prepare_study(spec, folder, display.say)
        meter = build_meter(study)
        timed = pay_owed(ledger, study, meter, display.say)
        return LaterTimings(timed, len(untimed(ledger.trials)), meter.host)


def pay_owed(ledger: Ledger, study: PreparedStudy, meter: LatencyMeter, say: Notify) -> int:
    """Have every trial timed that lacks its latency, as long as the machine that times answers; return how many were.

    What another machine stores meanwhile is not timed again.

    Args:
        ledger: open.
        study: that the trials are of.
        meter: times.
        say: called with a sentence on each.
    """
    done, seen = 0, set[int]()
    while waiting := [one for one in untimed(ledger.trials) if one.number not in seen]:
        trial = own_first(waiting, ledger.facts, ledger.worker.home)[0]
        seen.add(trial.number)
        network = study.device.place(study.pruner.prune(trial.candidate.policy)).eval()
        try:
            found = meter.time(network)
        except TimingError as error:
            say(f"trial {trial.number} has no latency yet: {error}")
            break  # the next one would wait in vain too
        ledger.add_latency(trial.number, HostLatency(found, meter.host))
        done += 1
        say(f"trial {trial.number} takes {found['latency_ms']:.3g} ms on {meter.host}")
    return done
