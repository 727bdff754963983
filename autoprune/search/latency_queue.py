"""Trials that wait for another machine to time them, while the search goes on.

What waits is what the study stores as untimed, by number: there is no queue to lose. One worker at a time hands it to
that machine, for all workers of the folder; should it die, the next that looks takes its turn. Networks are exported
in the worker's own thread, between two candidates, as PyTorch's exporter is not made for two; a further thread does
nothing but ask the command and wait.

Machines that share trials and no folder each have a queue. Each begins with the trials it evaluated itself and takes
the others' from the last one on, so that both seldom time the same network.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from autoprune.core.measurement import Measurement
from autoprune.core.notify import Notify
from autoprune.core.trial import Candidate, HostLatency, Trial
from autoprune.errors import AutopruneError, TimingError
from autoprune.export.remote_timer import RemoteTimer
from autoprune.export.timing_command import TimingRequest
from autoprune.loggers.protocol import Observer
from autoprune.search.evaluation.latency_meter import LatencyMeter
from autoprune.search.setup.prepared_study import PreparedStudy
from autoprune.search.taking_turns import Turn
from autoprune.study.later_latencies import untimed
from autoprune.study.ledger import Ledger
from autoprune.study.workers import WorkerName

_AHEAD = 4  # networks that are exported and wait in memory
_PAUSE = 0.05  # seconds between two looks at what has come
_SECONDS_TO_END = 5.0
_TRIES = 3  # in a row that fail at the end of a search, before the rest is left owed
_SECONDS_BETWEEN_TRIES = 2.0


@dataclass(frozen=True)
class _Answer:
    """What came of one trial."""

    trial: Trial
    found: Measurement | AutopruneError


class LatencyQueue:
    """What has the untimed trials of a study timed, one by one and in order.

    Args:
        ledger: open.
        study: prepared.
        meter: of the study.
        timer: on the other machine.
        turn: to ask that machine for all workers of the folder.
        say: called with a sentence.
    """

    def __init__(
        self, ledger: Ledger, study: PreparedStudy, meter: LatencyMeter, timer: RemoteTimer, turn: Turn, say: Notify
    ) -> None:
        self._ledger, self._study, self._meter, self._timer = ledger, study, meter, timer
        self._turn, self._say = turn, say
        self._wanted: queue.Queue[tuple[Trial, TimingRequest] | None] = queue.Queue()
        self._answers: queue.Queue[_Answer] = queue.Queue()
        self._given_up = threading.Event()
        self._sent, self._mentioned = set[int](), set[int]()
        self._failed = set[int]()  # of what is wrong with the network, not with the machine
        self._thread: threading.Thread | None = None

    def hand_over(self) -> None:
        """Store what has come, and hand over what waits; to be called between two candidates."""
        self.store()
        for trial in self._waiting():
            if trial.number not in self._mentioned:
                self._mentioned.add(trial.number)
                self._say(f"trial {trial.number} is scored, and waits to be timed on {self._meter.host}")
        if not self._turn.take():
            return  # another worker does it
        for trial in self._waiting():
            if len(self._sent) >= _AHEAD:
                return
            if trial.number not in self._sent:
                self._send(trial)

    def store(self) -> bool:
        """Store the latencies that have come; return whether the machine failed to give one."""
        is_down = False
        with suppress(queue.Empty):
            while True:
                answer = self._answers.get_nowait()
                self._sent.discard(answer.trial.number)
                is_down |= self._stored(answer)
        return is_down

    def drain(self) -> None:
        """Have everything timed that still waits, until the machine fails again and again or somebody else does it."""
        said, failures = False, 0
        while self._turn.take():
            before = len(self._waiting())
            is_down = self.store()
            left = self._waiting()
            if is_down:
                failures += 1
            elif len(left) < before:
                failures = 0
            if failures == _TRIES or not left:
                break
            if is_down:
                time.sleep(_SECONDS_BETWEEN_TRIES)
            if not said:
                said = True
                self._say(
                    f"all trials are there; {len(left)} of them still wait{'s' * (len(left) == 1)} to be timed on "
                    f"{self._meter.host} (Ctrl-C leaves that to `autoprune time`)"
                )
            if not self._sent:
                self.hand_over()
            time.sleep(_PAUSE)
        owed = self._waiting()
        if owed and self._turn.take():
            command = f"autoprune time {self._study.folder.path}"
            self._say(f"{len(owed)} trial{'s' * (len(owed) > 1)} without a latency yet; `{command}` asks for it again")

    def close(self) -> None:
        """Ask for nothing further; what is being timed is given up, and stays owed."""
        self._given_up.set()
        self._wanted.put(None)
        if self._thread is not None:
            self._thread.join(_SECONDS_TO_END)
        self._turn.close()

    def watch(self, observer: Observer) -> Observer:
        """Return an observer that stores what has come at every phase, and passes everything on to another one."""
        return _Storing(observer, self.store)

    def _waiting(self) -> list[Trial]:
        """Return the trials that wait, those that were evaluated in another folder last and the last of them first."""
        waiting = [trial for trial in untimed(self._ledger.trials) if trial.number not in self._failed]
        return own_first(waiting, self._ledger.facts, self._ledger.worker.home) if waiting else []

    def _send(self, trial: Trial) -> None:
        device, pruner = self._study.device, self._study.pruner
        try:
            request = self._timer.request(device.place(pruner.prune(trial.candidate.policy)).eval())
        except AutopruneError as error:
            self._never(trial, error)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._ask, name="autoprune-latencies", daemon=True)
            self._thread.start()
        self._sent.add(trial.number)
        self._wanted.put((trial, request))

    def _ask(self) -> None:
        """Ask for one network after the other; once the machine fails, those behind it are handed back."""
        while (order := self._wanted.get()) is not None:
            trial, request = order
            try:
                comparison = self._timer.timed(request, self._given_up)
                found: Measurement | AutopruneError = self._meter.latency(comparison)
            except AutopruneError as error:
                found = error
            except Exception as error:  # else nobody would know that the thread is gone
                found = TimingError(f"the latency command could not be asked: {type(error).__name__}: {error}")
            if self._given_up.is_set():
                return
            if isinstance(found, TimingError):
                self._hand_back(found)
            self._answers.put(_Answer(trial, found))

    def _hand_back(self, error: TimingError) -> None:
        with suppress(queue.Empty):
            while (order := self._wanted.get_nowait()) is not None:
                self._answers.put(_Answer(order[0], error))
            self._wanted.put(None)

    def _stored(self, answer: _Answer) -> bool:
        """Store a latency; return whether the machine failed to give it."""
        trial, found = answer.trial, answer.found
        if isinstance(found, TimingError):
            self._say(f"trial {trial.number} has no latency yet: {found}")
            return True
        if isinstance(found, AutopruneError):
            self._never(trial, found)
            return False
        self._ledger.add_latency(trial.number, HostLatency(found, self._meter.host))
        self._say(f"trial {trial.number} takes {found['latency_ms']:.3g} ms on {self._meter.host}")
        return False

    def _never(self, trial: Trial, error: AutopruneError) -> None:
        self._failed.add(trial.number)
        self._say(f"trial {trial.number} cannot be timed: {error}")


def own_first(trials: Sequence[Trial], facts: Mapping[str, Any], home: str) -> list[Trial]:
    """Return the trials that were evaluated at home, in order, and then the others, the last of them first.

    Args:
        trials: by number.
        facts: about the study as a whole, as the ledger returns them.
        home: the machine and folder of this worker, as :attr:`WorkerName.home` says it.
    """

    def place(trial: Trial) -> tuple[bool, int]:
        worker = facts.get(f"session:{trial.session}", {}).get("worker", "")
        is_elsewhere = bool(worker) and WorkerName.parse(worker).home != home
        return is_elsewhere, -trial.number if is_elsewhere else trial.number

    return sorted(trials, key=place)


@dataclass(frozen=True)
class _Storing:
    """An observer that passes everything on, and stores latencies on the way."""

    observer: Observer
    store: Callable[[], object]

    def asked(self, candidate: Candidate) -> None:
        self.observer.asked(candidate)

    def phase(self, name: str) -> None:
        self.store()
        self.observer.phase(name)

    def told(self, trial: Trial) -> None:
        self.observer.told(trial)
