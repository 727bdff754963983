"""``--workers auto``: one worker on each GPU, or on a CPU as many as train most together, as measured once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from autoprune.cli.worker_plan import MEASURE, free_gigabytes, started
from autoprune.core.atomic_write import write_text
from autoprune.core.cores import THREADS_VARIABLE, available_cores
from autoprune.core.json_values import DAMAGE, parse_json
from autoprune.core.notify import Notify
from autoprune.errors import EvaluationError
from autoprune.loggers.worker_lines import WorkerLine

CHOICE = "workers.json"  # in the study's folder
_SECONDS = 3.0  # that each is measured for
_WORTH = 1.05  # several workers train so much more than one, or they are not worth their memory


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


def best_number(arguments: Sequence[str], folder: Path, notify: Notify) -> int:
    """Return how many workers train most together on this machine's CPU: one for each core, or one in all.

    It is measured once for each machine, with the study's own network and data, and stored in the study's folder.

    Args:
        arguments: of the command line after ``autoprune``.
        folder: of the study.
        notify: called with a sentence on what is measured, and what was found.

    Raises:
        EvaluationError: if it cannot be measured.
    """
    cores = available_cores()
    if cores == 1:
        return 1
    known = _stored(folder, cores)
    if known:
        return known
    notify(f"measuring whether {cores} workers of one thread train more than one of {cores} threads")
    many, one = _measured(arguments, ((cores, 1), (1, cores)))
    rates = sum(each["steps_per_second"] for each in many), one[0]["steps_per_second"]
    room = int((free_gigabytes() or 1e9) / (1.2 * max(each["gigabytes"] for each in many)))
    number = max(1, min(cores, room)) if rates[0] > _WORTH * rates[1] else 1
    notify(
        f"{cores} workers of one thread train {rates[0]:.1f} steps per second, one of {cores} threads {rates[1]:.1f}: "
        f"{number} worker{'' if number == 1 else 's'}"
    )
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    _store(folder, cores, number, rates)
    return number


def _measured(arguments: Sequence[str], plans: Sequence[tuple[int, int]]) -> list[list[dict[str, Any]]]:
    """Return what each process of each plan trains while the others of its plan do; those of the other plans wait.

    Args:
        arguments: of the command line after ``autoprune``.
        plans: how many processes there are, and the threads of each.
    """
    role, groups = f"{MEASURE}{_SECONDS}", list[list[subprocess.Popen[str]]]()
    try:
        for workers, threads in plans:  # all of them load PyTorch at once
            environment = {THREADS_VARIABLE: str(threads)}
            groups.append([started(arguments, role, environment, stdin=subprocess.PIPE) for _ in range(workers)])
        for process in chain.from_iterable(groups):
            _said(process, "ready")
        return [_trained_together(processes) for processes in groups]
    finally:
        for process in chain.from_iterable(groups):
            process.kill()
            process.communicate()


def _trained_together(processes: Sequence[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    """Let processes that are ready train at once; return what each has trained."""
    for process in processes:
        if process.stdin is not None:
            process.stdin.write("go\n")
            process.stdin.flush()
    return [_said(process, "measured") for process in processes]


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
