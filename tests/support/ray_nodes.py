"""A Ray cluster of several nodes on this machine, for tests: its address is printed, and it ends with its input.

    python tests/support/ray_nodes.py CPUS:GPUS CPUS:GPUS …

GPUs are numbers only; nothing looks for them.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import tiny

LOCAL = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}  # nothing beyond 127.0.0.1


def why_not() -> str:
    """Return why no cluster can be started here; empty if one can."""
    return "" if importlib.util.find_spec("ray") else "Ray is not installed (the extra ray)"


@contextmanager
def cluster(*nodes: str) -> Iterator[Mapping[str, str]]:
    """Start a cluster; give the variables by which commands use it."""
    environment = {**tiny.environment(), **LOCAL}
    process = subprocess.Popen(
        [sys.executable, __file__, *nodes], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        address = next((line.split()[1] for line in process.stdout if line.startswith("address ")), "")
        assert address, "no cluster was started"
        yield {**environment, "RAY_ADDRESS": address}
    finally:
        process.communicate("", timeout=60)


def main(nodes: list[str]) -> None:
    """Start nodes, say where, and wait."""
    from ray.cluster_utils import Cluster

    started = Cluster()
    for node in nodes:
        cpus, gpus = node.split(":")
        has = {"num_cpus": int(cpus), "num_gpus": int(gpus), "object_store_memory": 80_000_000}
        started.add_node(include_dashboard=False, **has)
    sys.stdout.write(f"address {started.address}\n")
    sys.stdout.flush()
    sys.stdin.read()
    started.shutdown()


if __name__ == "__main__":
    main(sys.argv[1:])
