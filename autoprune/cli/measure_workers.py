"""``--workers auto``: one worker on each GPU, or on a CPU as many as train most together, as measured once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from autoprune.cli.many_workers import Start
from autoprune.cli.worker_plan import GO_ON, LEAST_GB, MEASURE, WorkerPlan, free_gigabytes, planned_workers, started
from autoprune.core.atomic_write import write_text
from autoprune.core.cores import THREADS_VARIABLE, available_cores
from autoprune.core.json_values import DAMAGE, parse_json
from autoprune.core.notify import Notify
from autoprune.errors import EvaluationError
from autoprune.loggers.worker_lines import WorkerLine

CHOICE = "workers.json"  # in the study's folder
_ROLE = f"{MEASURE}1"  # seconds that each is measured for
# Several workers train so much of what one does, or they are not worth their memory. It is less than all of it because
# the dense network is measured, and a search trains narrower ones, of which two threads train hardly more than one.
_WORTH = 0.9


def gpus_here() -> list[str]:
    """Return the GPUs that this process may use, as ``cuda:0``; none where NVIDIA's tool finds none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [f"cuda:{number}" for number, each in enumerate(visible.split(",")) if each.strip()]
    try:
        asked = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        found = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [f"cuda:{line.strip()}" for line in found.stdout.splitlines() if line.strip().isdecimal()]


def best_workers(arguments: Sequence[str], folder: Path, notify: Notify) -> tuple[list[WorkerPlan], Start | None]:
    """Return as many workers as train most together on this machine's CPU: one for each core, or one in all.

    It is measured once for each machine, with the study's own network and data, and stored in the study's folder. The
    processes that were measured go on as workers, if there are to be so many.

    Args:
        arguments: of the command line after ``autoprune``.
        folder: of the study.
        notify: called with a sentence on what is measured, and what was found.

    Returns:
        The workers, and what starts them, ``None`` for the usual.

    Raises:
        EvaluationError: if it cannot be measured.
    """
    cores, room = available_cores(), free_gigabytes() or 1e9
    known, most = _stored(folder, cores), min(cores, int(room / LEAST_GB))
    if known or most < 2:
        return planned_workers(str(known or 1), 0), None
    plans = planned_workers(str(most), 0)
    notify(f"measuring whether {len(plans)} workers train more than one of {cores} threads")
    with ExitStack() as ending:
        processes = [started(arguments, _ROLE, plan.environment, stdin=subprocess.PIPE) for plan in plans]
        ending.callback(_end, processes)
        for process in processes:  # all of them load PyTorch at once
            _said(process, "ready")
        (one,) = _trained_together(processes[:1], cores)
        many = _trained_together(processes, _threads_of(plans[0]))
        rates = sum(each["steps_per_second"] for each in many), one["steps_per_second"]
        fit = int(room / (1.2 * max(each["gigabytes"] for each in many)))
        number = max(1, min(len(plans), fit)) if rates[0] > _WORTH * rates[1] else 1
        notify(
            f"{len(plans)} workers train {rates[0]:.1f} steps per second, one of {cores} threads {rates[1]:.1f}: "
            f"{number} worker{'' if number == 1 else 's'}"
        )
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        _store(folder, cores, number, rates)
        if number < len(plans):
            return planned_workers(str(number), 0), None
        ending.pop_all()
    return plans, partial(_going_on, iter(processes))


def _threads_of(plan: WorkerPlan) -> int:
    return int(plan.environment[THREADS_VARIABLE])


def _going_on(
    processes: Iterator[subprocess.Popen[str]], _arguments: Sequence[str], _plan: WorkerPlan
) -> subprocess.Popen[str]:
    """Let the next one of the processes that were measured go on as a worker."""
    process = next(processes)
    _tell(process, GO_ON)
    return process


def _end(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.kill()
        process.communicate()


def _trained_together(processes: Sequence[subprocess.Popen[str]], threads: int) -> list[dict[str, Any]]:
    """Let processes that are ready train at once, with so many threads each; return what each has trained."""
    for process in processes:
        _tell(process, str(threads))
    return [_said(process, "measured") for process in processes]


def _tell(process: subprocess.Popen[str], word: str) -> None:
    """Write a word to a process; what has become of one that has ended is seen where its answer is read."""
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.write(f"{word}\n")
            process.stdin.flush()


def _said(process: subprocess.Popen[str], kind: str) -> dict[str, Any]:
    """Return the values of the next line of a kind.

    Raises:
        EvaluationError: if the process ended before it said so.
    """
    for text in process.stdout or ():
        line = WorkerLine.parse(text)
        if line is not None and line.kind == "error":
            raise EvaluationError(f"the number of workers cannot be measured: {line.values['message']}")
        if line is not None and line.kind == kind:
            return line.values
    _, errors = process.communicate()
    last = (errors.strip().splitlines() or ["it said nothing"])[-1]
    raise EvaluationError(f"the number of workers cannot be measured: {last}; give a number: --workers 2")


def _stored(folder: Path, cores: int) -> int:
    """Return what was measured on this machine before; 0 if nothing was."""
    try:
        read: Any = parse_json((folder / CHOICE).read_text(encoding="utf-8"))
        return int(read[f"{socket.gethostname()}, {cores} cores"]["workers"])
    except (OSError, *DAMAGE):
        return 0


def _store(folder: Path, cores: int, number: int, rates: tuple[float, float]) -> None:
    known: Any = {}
    with suppress(OSError, *DAMAGE):
        known = parse_json((folder / CHOICE).read_text(encoding="utf-8"))
    measured = {"workers": number, "steps_per_second": {"one for each core": rates[0], "one in all": rates[1]}}
    write_text(folder / CHOICE, json.dumps({**known, f"{socket.gethostname()}, {cores} cores": measured}, indent=1))
