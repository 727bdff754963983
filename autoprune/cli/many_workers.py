"""Several workers started by one command: each runs the same search, and one display shows them all.

Nothing is coordinated here: a worker asks the study what to evaluate, as one that is started in another terminal does.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from autoprune import errors
from autoprune.cli.worker_plan import WorkerPlan, started
from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import Metric
from autoprune.core.trial import Trial
from autoprune.errors import AutopruneError, EvaluationError
from autoprune.loggers.console import AnyDisplay
from autoprune.loggers.worker_lines import WorkerLine

_ENDED = WorkerLine("ended", {})
_SECONDS_TO_END = 60.0
_LOOK_SECONDS = 2.0  # between two looks at whether the command that started a worker is still there


@dataclass(frozen=True)
class Ended:
    """What several workers did together.

    Attributes:
        added: trials evaluated by all of them.
        budget: absolute limits of their run.
    """

    added: int
    budget: Budget


class WorkerProcess(Protocol):
    """A worker that was started, here or elsewhere; a :class:`subprocess.Popen` is one."""

    @property
    def stdout(self) -> Iterable[str] | None:
        """Return the lines of its standard output, until it has ended."""
        ...  # pragma: no cover

    @property
    def stderr(self) -> Iterable[str] | None:
        """Return the lines of its standard error, likewise."""
        ...  # pragma: no cover

    @property
    def returncode(self) -> int | None:
        """Return its exit code, negative if a signal killed it; ``None`` while it lives."""
        ...  # pragma: no cover

    def poll(self) -> int | None:
        """Look whether it has ended; return its exit code."""
        ...  # pragma: no cover

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code as soon as it has ended; raises ``subprocess.TimeoutExpired``."""
        ...  # pragma: no cover

    def send_signal(self, number: int, /) -> None:
        """Send it a signal."""
        ...  # pragma: no cover

    def kill(self) -> None:
        """End it at once."""
        ...  # pragma: no cover


Start = Callable[[Sequence[str], WorkerPlan], WorkerProcess]  # (arguments of the command, plan) → a worker


@dataclass
class _Started:
    """A worker that was started."""

    plan: WorkerPlan
    process: WorkerProcess
    said: list[str] = field(default_factory=list)
    error: AutopruneError | None = None
    asked: int = -1
    added: int = 0


class ManyWorkers:
    """Workers of one study that this command starts, shows, and ends.

    Args:
        arguments: of the command line after ``autoprune``, as they were typed.
        plans: the workers.
        display: shows all of them.
        start: starts one, here if nothing else is given.
    """

    def __init__(
        self, arguments: Sequence[str], plans: Sequence[WorkerPlan], display: AnyDisplay, start: Start | None = None
    ) -> None:
        self._display, self._start_one = display, start or _started_here
        self._lines: queue.Queue[tuple[_Started, WorkerLine]] = queue.Queue()
        self._shown: set[int] = set()
        self._told: set[str] = set()
        self._budget = Budget()
        self._workers = [self._start(plan, arguments) for plan in plans]
        self._stored: dict[int, Trial] = {}  # by number: every worker tells them
        self._begins: WorkerLine | None = None

    def run(self) -> Ended:
        """Show what the workers do until all have ended.

        Raises:
            AutopruneError: what ended the first worker that failed, if none came to its end.
            KeyboardInterrupt: if this process is interrupted; the workers have ended by then.
        """
        self._display.workers = len(self._workers)
        try:
            for worker, line in self._until_all_ended():
                self._show(worker, line)
        except BaseException:
            self._end_all()
            raise
        failed = [worker for worker in self._workers if worker.process.returncode]
        if len(failed) == len(self._workers):
            raise next((worker.error for worker in failed if worker.error), self._unknown(failed[0]))
        for worker in failed:
            self._display.warn(f"worker {worker.plan.label} ended early: {worker.error or self._unknown(worker)}")
        return Ended(sum(worker.added for worker in self._workers), self._budget)

    def _start(self, plan: WorkerPlan, arguments: Sequence[str]) -> _Started:
        process = self._start_one(arguments, plan)
        worker = _Started(plan, process)
        for stream, read in ((process.stdout, self._read_lines), (process.stderr, self._read_errors)):
            threading.Thread(target=read, args=(worker, stream), daemon=True).start()
        return worker

    def _read_lines(self, worker: _Started, stream: Iterable[str]) -> None:
        for text in stream:
            line = WorkerLine.parse(text)
            if line is not None:
                self._lines.put((worker, line))
        worker.process.wait()
        self._lines.put((worker, _ENDED))

    def _read_errors(self, worker: _Started, stream: Iterable[str]) -> None:
        for text in stream:
            worker.said = [*worker.said, text.rstrip()][-20:]
            self._lines.put((worker, WorkerLine("stderr", {"message": text.rstrip()})))

    def _until_all_ended(self) -> Iterator[tuple[_Started, WorkerLine]]:
        left = len(self._workers)
        while left:
            with suppress(queue.Empty):
                worker, line = self._lines.get(timeout=0.5)
                left -= line is _ENDED
                yield worker, line

    def _show(self, worker: _Started, line: WorkerLine) -> None:
        values, label = line.values, worker.plan.label
        match line.kind:
            case "say":
                self._display.say(f"worker {label}: {values['message']}")
            case "warn" | "stderr":
                self._warn_once(label, values["message"])
            case "began":
                self._budget = Budget.parse(values["budget"])
                self._begins = line if not self._shown else None
            case "stored":
                self._stored[line.trial.number] = line.trial
            case "asked":
                self._begin()
                worker.asked = int(values["number"])
                self._display.at(label, f"trial {values['number']}")
            case "phase":
                self._begin()
                self._display.at(label, values["name"], further=True)
            case "told":
                self._begin()
                worker.added += line.trial.number == worker.asked
                self._tell_once(line.trial)
            case "error":
                kind = getattr(errors, str(values["error"]), EvaluationError)
                worker.error = kind.__new__(kind, values["message"])
            case "added":
                self._budget = Budget.parse(values["budget"])

    def _begin(self) -> None:
        """Show that the search has begun, with all trials that were stored by then."""
        if self._begins is None:
            return
        values, self._begins = self._begins.values, None
        qualities = [Metric.parse(text) for text in values["qualities"]]
        self._shown = set(self._stored)
        dense = Measurement.from_json(values["dense"])
        stored = [self._stored[number] for number in sorted(self._stored)]
        self._display.began(stored, values["wanted"], self._budget, dense, qualities)

    def _tell_once(self, trial: Trial) -> None:
        """Show a trial that every worker tells."""
        if trial.number not in self._shown:
            self._shown.add(trial.number)
            self._display.told(trial)

    def _warn_once(self, label: str, message: str) -> None:
        """Show a sentence that several workers may say alike."""
        if message and message not in self._told:
            self._told.add(message)
            self._display.warn(f"worker {label}: {message}")

    def _end_all(self) -> None:
        """Ask every worker to give back what it evaluates, and wait until it has."""
        for worker in self._workers:
            if worker.process.poll() is None:
                with suppress(ProcessLookupError):
                    worker.process.send_signal(signal.SIGTERM)
        for worker in self._workers:
            try:
                worker.process.wait(timeout=_SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                worker.process.kill()

    def _unknown(self, worker: _Started) -> AutopruneError:
        code = worker.process.returncode or 0
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        last = f"; it said last: {worker.said[-1]}" if worker.said else ""
        return EvaluationError(f"worker {worker.plan.label} ended ({how}){last}")


def _started_here(arguments: Sequence[str], plan: WorkerPlan) -> WorkerProcess:
    return started([*arguments, *plan.options], plan.label, plan.environment)


def end_with_parent() -> None:
    """End this worker, as politely as by SIGTERM, when the command that started it is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
