"""The door to Ray: a cluster that ``RAY_ADDRESS`` names, or one of this machine alone that ends with the command.

What is started here listens on 127.0.0.1 only, takes a secret of its own from whoever connects, has no dashboard and
sends no usage statistics. A cluster that was there before is used as it is, and left so.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoprune.cli.ray_place import Place
from autoprune.cli.ray_plan import Node, Share
from autoprune.cli.worker_plan import LEAST_GB
from autoprune.core.cores import available_cores
from autoprune.core.leftovers import scratch_folder
from autoprune.errors import EvaluationError, UsageError

ADDRESS_VARIABLE = "RAY_ADDRESS"
_LOOPBACK = "127.0.0.1"
_HERE = ("", "local")  # addresses of no cluster that is there already
_CONNECT_SECONDS = 10.0
_STORE_BYTES = 80_000_000  # of Ray's memory for objects, of which lines of text take next to none
_AT_ONCE = 4  # calls to one place: one reads what its worker says, another sends it a signal
_KEPT = (signal.SIGTERM, signal.SIGINT)  # signals whose handlers Ray replaces


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that this process is connected to.

    Attributes:
        nodes: that may get workers.
        is_own: whether it was started here, and ends with this command.
        is_over: set as soon as nothing is left to do, so that nobody waits for a place any more.
    """

    nodes: tuple[Node, ...]
    is_own: bool
    is_over: threading.Event = field(default_factory=threading.Event)

    @property
    def is_one_machine(self) -> bool:
        """Return whether all workers are on this machine."""
        return self.is_own or [node.host for node in self.nodes] == [socket.gethostname()]

    def new_place(self, share: Share) -> Any:
        """Return Ray's handle of a new :class:`Place`, which stands somewhere once there is room."""
        import ray

        return (
            ray.remote(Place)
            .options(
                num_cpus=share.cpus,
                num_gpus=share.gpus,
                memory=int(LEAST_GB * 1e9),
                max_concurrency=_AT_ONCE,
                max_restarts=0,
            )
            .remote()
        )


@contextmanager
def ray_cluster() -> Iterator[Cluster]:
    """Connect to the cluster that ``RAY_ADDRESS`` names, or start one here; leave it, or end it, afterwards.

    Meanwhile nothing reaches standard output: Ray writes a paragraph there on every process that died, which is said in
    a line already, and ``--json`` is one document.

    Raises:
        UsageError: if Ray is not installed.
        EvaluationError: if the cluster cannot be reached or started.
    """
    address = os.environ.get(ADDRESS_VARIABLE, "").strip()
    is_own = address.lower() in _HERE
    with ExitStack() as held:
        if is_own:
            held.enter_context(_environment(_own_environment()))
            settings = _own_settings(held.enter_context(scratch_folder("ray")))
        else:
            settings = {"address": address}
            _check_reachable(address)
        ray = _imported()
        held.enter_context(redirect_stdout(held.enter_context(Path(os.devnull).open("w", encoding="utf-8"))))
        held.callback(_quietly_shut_down)
        with _as_one_line(address), _kept_signals():
            ray.init(log_to_driver=False, configure_logging=True, logging_level=logging.ERROR, **settings)
            found = [each for each in ray.nodes() if each["Alive"]]
            if is_own:
                _check_loopback(found)
        yield Cluster(tuple(_node(each) for each in found), is_own)


def _imported() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "--workers ray needs Ray, which is not installed: pip install 'autoprune[ray]', or --workers 2 without it"
        ) from error
    return ray


def _own_settings(folder: Path) -> dict[str, Any]:
    """Return how Ray is started here; its files lie in a folder that goes with it."""
    return {
        "address": "local",
        "include_dashboard": False,
        "num_cpus": available_cores(),
        "object_store_memory": _STORE_BYTES,
        "_temp_dir": str(folder),
    }


def _check_loopback(nodes: Sequence[Mapping[str, Any]]) -> None:
    """Check that what was started here is on the loopback device alone.

    Raises:
        EvaluationError: if Ray did not see the variable that says so.
    """
    if {node["NodeManagerAddress"] for node in nodes} != {_LOOPBACK}:
        raise EvaluationError(
            f"it listens beyond {_LOOPBACK}, since something has imported Ray in this process before; start a cluster, "
            f"and set {ADDRESS_VARIABLE}"
        )


def _own_environment() -> dict[str, str]:
    """Return the variables under which Ray is started here; it reads some of them as it is imported."""
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on every system: one node, on the loopback device
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_worker_niceness": "0",  # workers take their turn as those of --workers 2 do
        "RAY_kill_child_processes_on_worker_exit": "0",  # they end by themselves, and give back what they evaluate
    }


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _kept_signals() -> Iterator[None]:
    """Put the handlers of signals back that were there before."""
    kept = {number: signal.getsignal(number) for number in _KEPT}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _check_reachable(address: str) -> None:
    """Raise at once if nobody answers; Ray itself tries for a minute.

    Raises:
        EvaluationError: naming the address.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not (host and port.isdecimal()):
        return  # as "auto": Ray knows where that is
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, getattr(error, "strerror", None) or str(error)) from error


@contextmanager
def _as_one_line(address: str) -> Iterator[None]:
    """Turn whatever Ray raises as it connects into one line.

    Raises:
        EvaluationError: with Ray's first line.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of them is raised as well
            yield
    except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError, and its own
        reason = first_line(error)
        if address.lower() in _HERE:
            raise EvaluationError(f"Ray could not be started on this machine: {reason}") from error
        raise _unreachable(address, reason) from error


def _unreachable(address: str, reason: str) -> EvaluationError:
    return EvaluationError(
        f"the Ray cluster of {ADDRESS_VARIABLE}={address} cannot be reached: {reason}; expected the address of a "
        f"running cluster, as 10.0.0.1:6379, auto, or ray://head:10001; without the variable Ray is started here"
    )


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, or its kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def _node(found: Mapping[str, Any]) -> Node:
    has = found["Resources"]
    return Node(
        str(found.get("NodeManagerHostname") or found["NodeManagerAddress"]),
        float(has.get("CPU", 0.0)),
        float(has.get("GPU", 0.0)),
        float(has.get("memory", 0.0)) / 1e9,
    )


def _quietly_shut_down() -> None:
    import ray

    with suppress(Exception):  # there is nothing more to be done with it
        ray.shutdown()
