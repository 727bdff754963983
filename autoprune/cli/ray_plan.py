"""How many workers a Ray cluster gets, and what each of them has: ``--workers ray``, ``--workers ray:8``.

Nothing here needs Ray: a cluster is known by what its nodes have.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.cli.worker_plan import LEAST_GB, WorkerPlan
from autoprune.core.cores import THREADS_VARIABLE, TOGETHER_VARIABLE
from autoprune.errors import UsageError

_WANTED = re.compile(r"ray(?P<given>:(?P<number>.*))?")
_SAME = 1e-6  # shares closer than this are one: 1 / (1/3) is three workers on a GPU


@dataclass(frozen=True)
class Node:
    """What a node of a cluster has.

    Attributes:
        host: its name.
        cpus: cores that Ray may give away.
        gpus: likewise.
        gigabytes: memory, likewise.
    """

    host: str
    cpus: float
    gpus: float
    gigabytes: float


@dataclass(frozen=True)
class Share:
    """What each worker has to itself.

    Attributes:
        cpus: cores.
        gpus: GPUs, or a fraction of one.
    """

    cpus: int
    gpus: float = 0.0

    def places(self, node: Node) -> int:
        """Return how many workers find their share on a node; a fraction of a GPU lies on one GPU."""
        room = [int(node.gigabytes / LEAST_GB + _SAME)]
        if self.cpus:
            room.append(int(node.cpus / self.cpus + _SAME))
        if self.gpus:
            room.append(_on_gpus(node, self.gpus))
        return min(room)


def wanted_on_ray(text: str) -> int | None:
    """Return how many workers ``ray:N`` asks for, 0 for ``ray`` alone; ``None`` if an option does not name Ray.

    Raises:
        UsageError: if no number, or none above 0, stands behind the colon.

    >>> wanted_on_ray("ray:8"), wanted_on_ray("ray"), wanted_on_ray("4")
    (8, 0, None)
    """
    found = _WANTED.fullmatch(text.strip().lower())
    if found is None:
        return None
    if not found["given"]:
        return 0
    if not (found["number"].isdecimal() and int(found["number"])):
        raise UsageError(
            f"--workers {text!r} is not understood; expected a number of workers, as ray:8, or ray alone for "
            f"as many as the cluster has GPUs"
        )
    return int(found["number"])


def check_gpus_per_worker(gpus: float) -> None:
    """Check that Ray can give so much of GPUs to one worker.

    Raises:
        UsageError: if not.
    """
    if gpus <= 0 or (gpus > 1 and gpus != int(gpus)):
        raise UsageError(
            f"--gpus-per-worker {gpus:g} cannot be given to a worker; expected a fraction of one GPU, as 0.5, or whole "
            f"GPUs, as 2"
        )


def planned_on_ray(
    wanted: int, nodes: Sequence[Node], gpus_per_worker: float, threads: int, device: str
) -> tuple[list[WorkerPlan], Share]:
    """Return the workers to place on a cluster, and what each of them has.

    On a cluster with GPUs each has its share of those, on one without as many cores as fit so many workers.

    Args:
        wanted: how many; 0 for as many as there are GPUs, or one on each core where there are none.
        nodes: of the cluster.
        gpus_per_worker: whole GPUs, or a fraction of one.
        threads: CPU threads of each, as the study's spec has it; 0 for those that its share allows.
        device: as the study's spec has it.

    Raises:
        UsageError: if the cluster has no room for so many.
    """
    if device.startswith("cuda") and not any(node.gpus for node in nodes):
        raise UsageError(f"the study is to run on {device}, and the Ray cluster has no GPU; give --device cpu")
    on_gpus = device != "cpu" and any(node.gpus for node in nodes)
    share = _gpu_share(nodes, gpus_per_worker) if on_gpus else _cpu_share(wanted, nodes, threads)
    room = sum(share.places(node) for node in nodes)
    if not room or wanted > room:
        raise UsageError(_no_room(wanted, room, nodes, share))
    count = wanted or room
    environment = {} if threads else {THREADS_VARIABLE: str(max(1, share.cpus))}
    if len(nodes) == 1 and not threads:
        environment[TOGETHER_VARIABLE] = str(max(1, share.cpus * count))
    options = ("--device", "cuda") if share.gpus else ()
    return [WorkerPlan(str(number + 1), options, environment) for number in range(count)], share


def _gpu_share(nodes: Sequence[Node], gpus: float) -> Share:
    """Return a share of GPUs, with the cores that are there for each of them on any node."""
    each = [node.cpus / places for node in nodes if (places := _on_gpus(node, gpus))]
    return Share(int(min(each, default=0.0)), gpus)


def _cpu_share(wanted: int, nodes: Sequence[Node], threads: int) -> Share:
    """Return the largest share of cores by which so many workers find a place; one core where none does."""
    if threads or not wanted:
        return Share(max(1, threads))
    largest = int(max((node.cpus for node in nodes), default=1))
    shares = (Share(cpus) for cpus in range(largest, 0, -1))
    return next((one for one in shares if sum(one.places(node) for node in nodes) >= wanted), Share(1))


def _on_gpus(node: Node, gpus: float) -> int:
    """Return how many workers find their GPUs on a node; a fraction lies on one GPU."""
    if gpus > 1:
        return int(node.gpus / gpus + _SAME)
    return int(node.gpus) * int(1 / gpus + _SAME)


def _no_room(wanted: int, room: int, nodes: Sequence[Node], share: Share) -> str:
    gpus, cpus, gigabytes = (
        sum(values) for values in zip(*((node.gpus, node.cpus, node.gigabytes) for node in nodes), strict=True)
    )
    has = f"{gpus:g} GPUs, {cpus:g} cores and {gigabytes:.1f} GB on {len(nodes)} node{'s' if len(nodes) > 1 else ''}"
    each = " and ".join([*([f"{share.gpus:g} GPU"] if share.gpus else []), f"{share.cpus} core(s)", f"{LEAST_GB:g} GB"])
    asked = f"--workers ray:{wanted} is more than" if wanted else "--workers ray asks for more than"
    less = " or a smaller --gpus-per-worker" if share.gpus else " or fewer --threads" if share.cpus > 1 else ""
    advice = f"give ray:{room} or fewer{',' if less else ''}{less}" if room else f"give a larger cluster{less}"
    return f"{asked} the Ray cluster has room for: it has {has}, and a worker takes {each}; {advice}"
