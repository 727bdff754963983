"""Processes that fine-tune several contenders of a pick at once: :class:`Finishers`, from the side of who starts them.

Each prepares the study for itself, trains one part at a time, and keeps what it reached in the memory of the pick,
where the contest finds it. What comes of a contender depends on its policy and the study's seed alone, so who trains
it and when changes nothing. ``finisher_process`` is the other side.
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, NoReturn

from autoprune import errors
from autoprune.core.child_process import started_python
from autoprune.core.trial import Trial
from autoprune.errors import AutopruneError, EvaluationError
from autoprune.loggers.worker_lines import WorkerLine
from autoprune.pick.contest_parts import FinetunePart, OnTrialPhase, TrainedPart
from autoprune.search.evaluation.make_network import NetworkMaker
from autoprune.study.folder import StudyFolder
from autoprune.study.spec import StudySpec
from autoprune.study.trial_format import candidate_record, outcome_record

PROGRAM = "autoprune.pick.finisher_process"
_ENDED = WorkerLine("ended", {})
_SECONDS_TO_END = 10.0


@dataclass
class _Finisher:
    """A process, and the number of the part that it trains; ``None`` if it trains none."""

    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)
    at: int | None = None


class Finishers:
    """Processes that train parts for one pick.

    Args:
        environments: variables of each process, beside those of this one.
        order: what each is told first, as :func:`order` writes it.
    """

    def __init__(self, environments: Sequence[Mapping[str, str]], order: str) -> None:
        self._lines: queue.Queue[tuple[_Finisher, WorkerLine]] = queue.Queue()
        self._finishers: list[_Finisher] = []
        try:
            for environment in environments:
                self._start(environment, order)
        except BaseException:
            self.close()
            raise

    def train(self, parts: Sequence[FinetunePart], on_phase: OnTrialPhase) -> list[TrainedPart]:
        """Return how each part ended, in their order, as :class:`PartTrainer` says.

        Raises:
            AutopruneError: what a process could not go on for.
            EvaluationError: if a process ended; what it finished before is kept.
        """
        ended: dict[int, TrainedPart] = {}
        left = list(range(len(parts)))
        for finisher in self._finishers:
            self._give(finisher, parts, left)
        while len(ended) < len(parts):
            finisher, line = self._lines.get()
            match line.kind:
                case "phase" if finisher.at is not None:
                    on_phase(parts[finisher.at].trial, str(line.values["words"]))
                case "trained" if finisher.at is not None:
                    ended[finisher.at] = _trained(line)
                    finisher.at = None
                    self._give(finisher, parts, left)
                case "error":
                    raise _error(line)
                case "ended":
                    self._raise_ended(finisher, parts)
        return [ended[number] for number in range(len(parts))]

    def close(self) -> None:
        """End the processes; a part that one is at is lost."""
        for finisher in self._finishers:
            finisher.process.terminate()
        for finisher in self._finishers:
            try:
                finisher.process.wait(timeout=_SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                finisher.process.kill()
                finisher.process.wait()
            if finisher.process.stdin is not None:
                with suppress(OSError):
                    finisher.process.stdin.close()

    def _start(self, environment: Mapping[str, str], order: str) -> None:
        process = started_python(["-m", PROGRAM], environment, stdin=subprocess.PIPE)
        finisher = _Finisher(process)
        self._finishers.append(finisher)
        for stream, read in ((process.stdout, self._read_lines), (process.stderr, self._read_errors)):
            threading.Thread(target=read, args=(finisher, stream), daemon=True).start()
        _write(process, order)

    def _read_lines(self, finisher: _Finisher, stream: IO[str]) -> None:
        with stream:
            for text in stream:
                line = WorkerLine.parse(text)
                if line is not None:
                    self._lines.put((finisher, line))
        finisher.process.wait()
        self._lines.put((finisher, _ENDED))

    def _read_errors(self, finisher: _Finisher, stream: IO[str]) -> None:
        with stream:
            for text in stream:
                finisher.said = [*finisher.said, text.rstrip()][-20:]

    def _give(self, finisher: _Finisher, parts: Sequence[FinetunePart], left: list[int]) -> None:
        if left:
            finisher.at = left.pop(0)
            _write(finisher.process, _part_text(parts[finisher.at]))

    def _raise_ended(self, finisher: _Finisher, parts: Sequence[FinetunePart]) -> NoReturn:
        code = finisher.process.returncode
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        at = "" if finisher.at is None else f", while it trained trial {parts[finisher.at].trial.number}"
        last = f"; it said last: {finisher.said[-1]}" if finisher.said else ""
        raise EvaluationError(
            f"a process of this pick ended ({how}){at}{last}. The parts that were finished are kept: the same command "
            f"goes on, with a smaller --workers if memory is short"
        )


@contextmanager
def finishers(
    environments: Sequence[Mapping[str, str]], spec: StudySpec, folder: StudyFolder, maker: NetworkMaker, work: Path
) -> Iterator[Finishers]:
    """Start processes that train for a pick, and end them afterwards.

    Args:
        environments: variables of each process, beside those of this one.
        spec: of the study, with every choice made.
        folder: of the study.
        maker: with the fine-tune of the pick; each process makes its own alike.
        work: where the memory of the pick is kept.
    """
    order = {
        "spec": spec.model_dump(mode="json"),
        "folder": str(folder.path.absolute()),
        "settings": asdict(maker.settings),
        "runtime": maker.runtime.describe(),
        "work": str(work.absolute()),
    }
    started = Finishers(environments, json.dumps(order))
    try:
        yield started
    finally:
        started.close()


def _part_text(part: FinetunePart) -> str:
    trial: Trial = part.trial
    return json.dumps(
        {
            "candidate": candidate_record(trial.candidate, trial.session),
            "outcome": outcome_record(trial.outcome, trial.seconds),
            **{"first": part.first, "last": part.last},
        }
    )


def _write(process: subprocess.Popen[str], text: str) -> None:
    try:
        if process.stdin is not None:
            process.stdin.write(f"{text}\n")
            process.stdin.flush()
    except OSError:
        return  # it has ended, which its output says


def _trained(line: WorkerLine) -> TrainedPart:
    failed = line.values.get("failure")
    failure = None if failed is None else _restored(str(failed["error"]), str(failed["message"]))
    if failure is not None and not isinstance(failure, EvaluationError):
        raise failure
    return TrainedPart(failure, {str(phase): float(value) for phase, value in line.values["seconds"].items()})


def _error(line: WorkerLine) -> AutopruneError:
    return _restored(str(line.values["error"]), str(line.values["message"]))


def _restored(name: str, message: str) -> AutopruneError:
    """Return an error of another process."""
    kind = getattr(errors, name, EvaluationError)
    found: AutopruneError = kind.__new__(kind, message)
    return found
