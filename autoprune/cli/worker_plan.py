"""How many workers a command starts, and on what: ``--workers 4``, ``--workers cuda:0,cuda:1``."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoprune.core.child_process import started_python
from autoprune.core.cores import THREADS_VARIABLE, TOGETHER_VARIABLE, unused_cores
from autoprune.errors import UsageError

AS_WORKER = "--as-worker"  # of the command line by which a worker is started
MEASURE = "measure:"  # what stands behind it where a process measures how fast it trains, then for how many seconds
GO_ON = "search"  # what such a process is told if it is to be a worker afterwards
_GPU = re.compile(r"cuda:(?P<index>\d+)")
_EXPECTED = "expected a number, auto, the GPUs to use, as cuda:0,cuda:1, or a Ray cluster, as ray:8"
LEAST_GB = 0.5  # that a process with PyTorch takes before it has a network


@dataclass(frozen=True)
class WorkerPlan:
    """One worker that is to be started.

    Attributes:
        label: what it is called on the display.
        options: of the command line, beside those of the user.
        environment: variables that are set before PyTorch is imported.
    """

    label: str
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def planned_workers(wanted: str, threads: int) -> list[WorkerPlan]:
    """Return the workers that an option asks for; a single one without anything of its own means this process.

    Args:
        wanted: as it was typed.
        threads: CPU threads of each, as the study's spec has it; 0 to share the cores among them.

    Raises:
        UsageError: if it is not understood, or the machine has no room for so many.
    """
    text = wanted.strip().lower()
    if text.isdecimal() and int(text):
        return _on_the_cpu(int(text), threads)
    found = [_GPU.fullmatch(part.strip()) for part in text.split(",")]
    if not all(found):
        raise UsageError(f"--workers {wanted!r} is not understood; {_EXPECTED}")
    indices = [match["index"] for match in found if match]
    if len(set(indices)) < len(indices):
        raise UsageError(f"--workers {wanted!r} names a GPU twice; name each once")
    return [_on_a_gpu(index, len(indices), threads) for index in indices]


def started(
    arguments: Sequence[str], role: str, environment: Mapping[str, str], *, stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[str]:
    """Start the same command as a worker, whose lines are read from its standard output.

    Args:
        arguments: of the command line after ``autoprune``, as they were typed.
        role: what it is to do: the label of a worker, or ``MEASURE`` with a number of seconds.
        environment: variables beside those of this process.
        stdin: where its standard input comes from.
    """
    return started_python(worker_words(arguments, role), environment, stdin=stdin)


def worker_words(arguments: Sequence[str], role: str) -> list[str]:
    """Return what stands behind the name of the interpreter where a command is started as a worker."""
    return ["-m", "autoprune", *arguments, AS_WORKER, role]


def _on_the_cpu(count: int, threads: int) -> list[WorkerPlan]:
    if count == 1:
        return [WorkerPlan("1")]
    gigabytes = free_gigabytes()
    if gigabytes is not None and count * LEAST_GB > gigabytes:
        raise UsageError(
            f"--workers {count} is more than this machine has memory for: {gigabytes:.1f} GB are free, and a worker "
            f"takes {LEAST_GB:g} GB before it has a network; give {max(1, int(gigabytes / LEAST_GB))} or fewer"
        )
    return [WorkerPlan(str(number + 1), (), _threads(count, threads)) for number in range(count)]


def _on_a_gpu(index: str, count: int, threads: int) -> WorkerPlan:
    visible = [each.strip() for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each.strip()]
    if visible and int(index) >= len(visible):
        raise UsageError(
            f"--workers names cuda:{index}, and CUDA_VISIBLE_DEVICES shows {len(visible)} GPU(s); give cuda:0 to "
            f"cuda:{len(visible) - 1}"
        )
    seen = {"CUDA_VISIBLE_DEVICES": visible[int(index)] if visible else index}
    return WorkerPlan(f"cuda:{index}", ("--device", "cuda"), {**seen, **_threads(count, threads)})


def _threads(workers: int, threads: int) -> dict[str, str]:
    if threads:
        return {}
    cores = unused_cores()
    each = max(1, cores // workers)
    return {THREADS_VARIABLE: str(each), TOGETHER_VARIABLE: str(max(cores, workers * each))}


def free_gigabytes() -> float | None:
    """Return the memory that is free for new processes; ``None`` where that is not known."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None
    return kilobytes / 1e6
