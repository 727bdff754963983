"""Workers that Ray places on a cluster: where each runs is Ray's choice, what it does is what any worker does.

:class:`RayWorker` looks like a process to :class:`~autoprune.cli.many_workers.ManyWorkers`. Behind it stands one
process after another: where a node, Ray's process there, or the worker itself was killed, another is started, and the
candidate that was lost is taken up by whoever asks next.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoprune.cli.ray_cluster import Cluster, first_line, ray_cluster
from autoprune.cli.ray_place import Placed
from autoprune.cli.ray_plan import Share, planned_on_ray
from autoprune.cli.secrets import STORAGE_VARIABLE, without_storage
from autoprune.cli.worker_plan import WorkerPlan, worker_words
from autoprune.errors import UsageError
from autoprune.loggers.worker_lines import WorkerLine

if TYPE_CHECKING:
    from autoprune.cli.many_workers import Ended
    from autoprune.loggers.console import AnyDisplay
    from autoprune.study.spec import StudySpec

MOST_DEATHS = 5  # of one worker in a row while the study gains no trial: what kills it would kill it again
_LOOK_SECONDS = 0.5
_PATIENCE_SECONDS = 10.0  # before it is said that a worker waits for room
_INTERRUPTED = 130
# what workers on other nodes get from the environment of the command; the rest is of its machine
_CARRIED = ("AUTOPRUNE_", "MLFLOW_", "WANDB_", "PG")


@dataclass(frozen=True)
class _End:
    """How the worker at one place ended.

    Attributes:
        code: exit code, negative if it was killed.
        how: in words, if it was killed.
    """

    code: int
    how: str = ""


class _Lines:
    """Lines of text that come in until they are closed, for one reader."""

    def __init__(self) -> None:
        self._lines: queue.Queue[str | None] = queue.Queue()

    def put(self, text: str) -> None:
        """Add a line."""
        self._lines.put(text)

    def close(self) -> None:
        """Let the reader come to an end."""
        self._lines.put(None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines.get, None)


class RayWorker:
    """A worker somewhere on a Ray cluster, started again where it was killed.

    Args:
        cluster: which it runs on.
        share: of the cluster that it has to itself.
        words: what stands behind the name of the interpreter.
        environment: variables beside those of Ray's process.

    Attributes:
        stdout: lines of its standard output, of all its processes.
        stderr: likewise.
        returncode: by which the last of them ended; ``None`` before.
    """

    def __init__(self, cluster: Cluster, share: Share, words: Sequence[str], environment: Mapping[str, str]) -> None:
        self.stdout, self.stderr = _Lines(), _Lines()
        self.returncode: int | None = None
        self._cluster, self._share, self._words, self._environment = cluster, share, tuple(words), dict(environment)
        self._place: Any = None
        self._placed: Placed | None = None
        self._is_to_end, self._ended = threading.Event(), threading.Event()
        self._deaths = 0
        threading.Thread(target=self._run, daemon=True).start()

    def poll(self) -> int | None:
        """Return its exit code; ``None`` while it lives."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code as soon as it has ended.

        Raises:
            subprocess.TimeoutExpired: if it has not within so many seconds.
        """
        if not self._ended.wait(timeout) or self.returncode is None:
            raise subprocess.TimeoutExpired(self._words, timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send its process a signal that ends it, and start no other."""
        self._is_to_end.set()
        if self._placed is not None:
            with suppress(Exception):  # what cannot be reached has ended, or ends without us
                self._place.send_signal.remote(number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)
        self._give_up_place()

    def _run(self) -> None:
        code = 1
        try:
            code = self._until_it_ends_by_itself()
        except Exception as error:  # of Ray's: it is said, and ends this worker alone
            self.stderr.put(f"Ray: {first_line(error)}\n")
        finally:
            if not code:
                self._cluster.is_over.set()
            self.returncode = code
            self.stdout.close()
            self.stderr.close()
            self._ended.set()

    def _until_it_ends_by_itself(self) -> int:
        while True:
            try:
                end = self._at_one_place()
            finally:
                self._give_up_place()
            if end.code >= 0 or self._is_to_end.is_set():
                return end.code
            self._deaths += 1
            if self._deaths >= MOST_DEATHS:
                self._tell("warn", f"{end.how}; {MOST_DEATHS} times without a trial in between, so it is given up")
                return end.code
            self._tell("warn", f"{end.how}; it is started again, and what it evaluated is taken up")

    def _at_one_place(self) -> _End:
        """Start the worker somewhere, and hand on what it says until it has ended."""
        import ray

        self._place = self._cluster.new_place(self._share)
        try:
            placed = self._wait_for_room(self._place.start.remote(self._words, self._environment, os.getcwd()))
            if placed is None:
                return _End(_INTERRUPTED if self._is_to_end.is_set() else 0)
            if placed.fault:
                self.stdout.put(_line("error", error=UsageError.__name__, message=placed.fault))
                return _End(UsageError.exit_code)
            self._placed = placed
            if self._is_to_end.is_set():
                self.send_signal(signal.SIGTERM)
            return self._followed(placed)
        except ray.exceptions.RayActorError as error:
            where = f"its place on {self._placed.host}" if self._placed else f"its place ({_cause(error)})"
            return _End(-signal.SIGKILL, f"{where} was lost, as by a node that died")

    def _wait_for_room(self, started: Any) -> Placed | None:
        """Return where the worker was started; ``None`` if it is not needed any more."""
        import ray

        waited = 0.0
        while not (self._is_to_end.is_set() or self._cluster.is_over.is_set()):
            ready, _ = ray.wait([started], timeout=_LOOK_SECONDS)
            if ready:
                placed: Placed = ray.get(started)
                return placed
            if waited < _PATIENCE_SECONDS <= waited + _LOOK_SECONDS:
                self._tell("say", "waiting for room on the Ray cluster")
            waited += _LOOK_SECONDS
        return None

    def _followed(self, placed: Placed) -> _End:
        import ray

        while True:
            said = ray.get(self._place.read.remote())
            for text in said.lines:
                line = WorkerLine.parse(text)
                if line is not None and line.kind == "told":
                    self._deaths = 0
                self.stdout.put(text)
            for text in said.errors:
                self.stderr.put(text)
            if said.code is not None:
                how = f"process {placed.process} on {placed.host} was killed by signal {-said.code}"
                return _End(said.code, how if said.code < 0 else "")

    def _give_up_place(self) -> None:
        import ray

        place, self._place, self._placed = self._place, None, None
        if place is not None:
            with suppress(Exception):  # it may be gone already
                ray.kill(place)

    def _tell(self, kind: str, message: str) -> None:
        self.stdout.put(_line(kind, message=message))


def search_on_ray(
    arguments: Sequence[str],
    wanted: int,
    gpus_per_worker: float,
    spec: StudySpec,
    storage: str | None,
    display: AnyDisplay,
) -> Ended:
    """Search by workers that Ray places, and return what came of it.

    Args:
        arguments: of the command line after ``autoprune``, as they were typed.
        wanted: how many workers; 0 for as many as the cluster has GPUs, or room for where it has none.
        gpus_per_worker: whole GPUs, or a fraction of one.
        spec: of the study.
        storage: URL of its trials; ``None`` for SQLite in its folder.
        display: shows all of them.

    Raises:
        UsageError: if Ray is not installed, the cluster has no room for so many workers, or is of several machines
            and the storage serves one.
        EvaluationError: if the cluster cannot be reached or started.
        AutopruneError: what ended the first worker that failed, if none came to its end.
        KeyboardInterrupt: if this process is interrupted; the workers have ended by then.
    """
    from autoprune.cli.many_workers import ManyWorkers

    with ray_cluster() as cluster:
        _check_storage(cluster, storage)
        plans, share = planned_on_ray(wanted, cluster.nodes, gpus_per_worker, spec.runtime.threads, spec.runtime.device)
        where = "this machine" if cluster.is_own else f"a cluster of {len(cluster.nodes)} node(s)"
        display.say(f"starting {len(plans)} worker(s) by Ray on {where}")
        carried = _carried(storage)

        def start(words: Sequence[str], plan: WorkerPlan) -> RayWorker:
            environment = {**carried, **plan.environment}
            return RayWorker(cluster, share, worker_words([*words, *plan.options], plan.label), environment)

        return ManyWorkers(without_storage(arguments), plans, display, start).run()


def _check_storage(cluster: Cluster, storage: str | None) -> None:
    """Refuse a cluster of several machines for trials that only one of them can reach.

    Raises:
        UsageError: naming the option to use.
    """
    from autoprune.study.storage_url import serves_many_machines

    if cluster.is_one_machine or (storage and serves_many_machines(storage)):
        return
    hosts = sorted({node.host for node in cluster.nodes})
    raise UsageError(
        f"the Ray cluster has {len(cluster.nodes)} node(s) ({', '.join(hosts[:3])}{', …' if hosts[3:] else ''}), and "
        f"the study's storage (SQLite, where none is given) serves the workers of one machine; give --storage "
        f"postgresql+psycopg://USER:PASSWORD@HOST/DATABASE, or AUTOPRUNE_STORAGE"
    )


def _carried(storage: str | None) -> dict[str, str]:
    """Return the variables that go with each worker; the storage's URL is one, since anybody can list arguments."""
    carried = {name: value for name, value in os.environ.items() if name.startswith(_CARRIED)}
    return {**carried, **({STORAGE_VARIABLE: storage} if storage else {})}


def _line(kind: str, **values: object) -> str:
    return json.dumps({"kind": kind, **values}) + "\n"


def _cause(error: BaseException) -> str:
    """Return the last line of what Ray says of an actor that died, where the exception of the node stands."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
