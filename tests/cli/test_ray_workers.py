"""Workers that Ray places: planned by what a cluster has, started again when killed, with the scores of one alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import postgres
import pytest
import ray_nodes
from click.testing import CliRunner, Result
from running import ALIKE, PATIENCE, losses, searching, told, until
from tiny import call, environment, finished, stored_trials, write_study

from autoprune.cli import main
from autoprune.cli.ray_plan import Node, planned_on_ray, wanted_on_ray
from autoprune.cli.ray_workers import MOST_DEATHS
from autoprune.errors import UsageError
from autoprune.study.view import open_view
from autoprune.study.workers import workers_here

# 127.0.0.1, also as IPv6 writes it, and ::1, as the kernel lists them
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}

needs_ray = pytest.mark.skipif(bool(ray_nodes.why_not()), reason=ray_nodes.why_not() or "-")


def node(cpus: float = 0, gpus: float = 0, gigabytes: float = 100) -> Node:
    return Node("a", cpus, gpus, gigabytes)


# -- planned ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "nodes", "gpus_each", "count", "cpus", "gpus"),
    [
        (0, [node(16, 4), node(16, 4)], 1, 8, 4, 1),
        (3, [node(16, 4)], 1, 3, 4, 1),
        (0, [node(16, 4), node(2)], 0.5, 8, 2, 0.5),
        (0, [node(8, 2)], 1 / 3, 6, 1, 1 / 3),
        (0, [node(8, 2)], 0.4, 4, 2, 0.4),  # what is left of one GPU and of another is not one
        (0, [node(8, 3), node(8, 4)], 2, 3, 4, 2),
        (0, [node(1, 4)], 1, 4, 0, 1),
        (0, [node(8), node(4)], 1, 12, 1, 0),
        (2, [node(8)], 1, 2, 4, 0),
        (2, [node(4), node(2)], 1, 2, 2, 0),  # each on one node
        (0, [node(8, gigabytes=1.5)], 1, 3, 1, 0),
    ],
)
def test_a_cluster_is_shared_out(
    wanted: int, nodes: list[Node], gpus_each: float, count: int, cpus: int, gpus: float
) -> None:
    plans, share = planned_on_ray(wanted, nodes, gpus_each, 0, "auto")
    assert (len(plans), share.cpus, share.gpus) == (count, cpus, gpus)
    assert {plan.environment["OMP_NUM_THREADS"] for plan in plans} == {str(max(1, cpus))}
    assert {plan.options for plan in plans} == {("--device", "cuda") if gpus else ()}


def test_the_spec_says_how_many_threads_and_which_device() -> None:
    plans, share = planned_on_ray(0, [node(8, 2)], 1, 4, "cpu")
    assert (len(plans), share.cpus, share.gpus, plans[0].environment) == (2, 4, 0, {})


@pytest.mark.parametrize(
    ("wanted", "nodes", "device", "said"),
    [
        (9, [node(64, 8)], "auto", "has 8 GPUs.*give ray:8 or fewer, or a smaller --gpus-per-worker"),
        (9, [node(8)], "auto", "has 0 GPUs, 8 cores.*give ray:8 or fewer"),
        (0, [node(8, gigabytes=0.2)], "auto", "give a larger cluster"),
        (0, [node(8)], "cuda", "has no GPU; give --device cpu"),
    ],
)
def test_what_a_cluster_has_no_room_for_is_refused(wanted: int, nodes: list[Node], device: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        planned_on_ray(wanted, nodes, 1, 0, device)


@pytest.mark.parametrize("text", ["ray:", "ray:0", "ray:-1", "ray:two", "ray:1.5"])
def test_a_number_of_workers_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not understood; expected a number of workers"):
        wanted_on_ray(text)


# -- refused ----------------------------------------------------------------------------------------------------------


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["search", str(folder), *arguments])


def test_without_ray_it_is_said_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    done = run(write_study(tmp_path / "studies"), "--workers", "ray:2")
    assert (done.exit_code, "pip install 'autoprune[ray]'" in done.stderr) == (2, True), done.stderr
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_a_cluster_that_does_not_answer_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    done = run(write_study(tmp_path / "studies"), "--workers", "ray")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "RAY_ADDRESS=127.0.0.1:1 cannot be reached" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--workers", "2", "--gpus-per-worker", "1"), "is for workers that Ray places"),
        (("--workers", "ray", "--gpus-per-worker", "1.5"), "expected a fraction of one GPU"),
        (("--workers", "ray", "--gpus-per-worker", "0"), "expected a fraction of one GPU"),
    ],
)
def test_shares_that_serve_no_purpose_are_refused(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = run(write_study(tmp_path / "studies"), *arguments)
    assert (done.exit_code, said in done.stderr) == (2, True), done.stderr


# -- placed by Ray ----------------------------------------------------------------------------------------------------


def parents() -> dict[int, int]:
    """Return every process with the one that started it."""
    found = dict[int, int]()
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text(encoding="utf-8")
        except OSError:
            continue
        found[int(status.parent.name)] = int(text.partition("PPid:")[2].split()[0])
    return found


def children_of(process: int) -> set[int]:
    """Return every process below one that lives."""
    known, below = parents(), {process}
    while more := {child for child, parent in known.items() if parent in below} - below:
        below |= more
    return below - {process}


def living(processes: set[int]) -> set[int]:
    """Return those that have not ended; one whose end nobody has asked for has."""
    found = set[int]()
    for process in processes:
        try:
            state = Path(f"/proc/{process}/status").read_text(encoding="utf-8").partition("State:")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.add(process)
    return found


def listening(processes: set[int]) -> set[str]:
    """Return the addresses, as the kernel writes them, at which processes take connections."""
    theirs = set[str]()
    for process in processes:
        for descriptor in Path(f"/proc/{process}/fd").glob("*"):
            try:
                theirs.add(os.readlink(descriptor))
            except OSError:
                continue
    found = set[str]()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in theirs:
                found.add(fields[1].partition(":")[0])
    return found


@needs_ray
@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux tells who listens where")
def test_two_that_are_killed_find_what_one_finds_and_nothing_listens_beyond_this_machine(tmp_path: Path) -> None:
    one, two = (write_study(tmp_path / "studies", name, trials=14, epochs=20) for name in ("tiny", "both"))
    (two / "study.toml").write_text((one / "study.toml").read_text(encoding="utf-8"), encoding="utf-8")
    assert call("search", one, *ALIKE).returncode == 0
    with searching(two, *ALIKE, "--workers", "ray:2", "--json") as process:
        until(lambda: told(two) >= 2 and len(workers_here(two)) == 2, process)
        below = children_of(process.pid)
        assert listening(below)
        assert listening(below) <= LOOPBACK
        killed, left_alone = (worker.process for worker in workers_here(two))
        place = parents()[left_alone]
        os.kill(killed, signal.SIGKILL)
        os.kill(place, signal.SIGKILL)
        output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert f"process {killed} on " in errors
    assert "was killed by signal 9; it is started again" in errors
    assert "was lost, as by a node that died; it is started again" in errors
    assert json.loads(output)["counts"]["completed"] == 14
    assert finished(two) == finished(one), "each number once, with its policy"
    assert losses(two) == losses(one)
    assert errors.count("[14/14]") == 1
    assert workers_here(two) == []
    assert living(below) == set(), "Ray is gone with the command"


@needs_ray
@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupt_ends_all_once_and_gives_their_candidates_back(tmp_path: Path, how: signal.Signals) -> None:
    folder = write_study(tmp_path / "studies", trials=60, epochs=20)
    with searching(folder, "--workers", "ray:2") as process:
        until(lambda: told(folder) >= 2 and len(workers_here(folder)) == 2, process)
        below = children_of(process.pid)
        process.send_signal(how)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == (130 if how == signal.SIGINT else 0), errors
    assert errors.count("Resume with") == 1
    assert "Traceback" not in errors
    assert all(trial["state"] != "RUNNING" for trial in stored_trials(folder))
    assert workers_here(folder) == []
    assert living(below) == set()


@needs_ray
@pytest.mark.long
def test_workers_and_ray_end_when_the_command_is_killed(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies", trials=200, epochs=20)
    with searching(folder, "--workers", "ray:2") as process:
        until(lambda: told(folder) >= 2 and len(workers_here(folder)) == 2, process)
        below = children_of(process.pid)
        process.kill()
        process.wait()
        until(lambda: not workers_here(folder))
        until(lambda: not living(below))
    assert told(folder) < 200
    assert not open_view(folder).is_leased, "what was given to a worker that is gone is free for others"


@needs_ray
@pytest.mark.long
def test_a_cluster_of_two_nodes_needs_a_database_and_then_both_work(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies", trials=16, epochs=10)
    with ray_nodes.cluster("1:0", "1:0") as on_it:
        with searching(folder, "--workers", "ray", env=on_it) as process:
            _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 2
        assert "the Ray cluster has 2 node(s)" in errors
        assert "--storage postgresql+psycopg://" in errors
        if postgres.why_not():
            pytest.skip(postgres.why_not())
        with postgres.server() as server:
            url = server.new_database("rayed")
            with searching(folder, *ALIKE, "--workers", "ray", "--storage", url, env=on_it) as process:
                _, errors = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, errors
            assert postgres.PASSWORD not in errors
            assert "starting 2 worker(s) by Ray on a cluster of 2 node(s)" in errors
            assert sorted(losses(folder, url)) == list(range(16))


PLACED = """
import json, pathlib, signal, sys
from autoprune.cli.ray_cluster import ray_cluster
from autoprune.cli.ray_plan import planned_on_ray
from autoprune.cli.ray_workers import RayWorker

script, gpus_each = sys.argv[1], float(sys.argv[2])
handler = signal.getsignal(signal.SIGTERM)
with ray_cluster() as cluster:
    plans, share = planned_on_ray(1 if gpus_each == 0 else 0, cluster.nodes, gpus_each or 1, 0, "auto")
    workers = [RayWorker(cluster, share, [script], plan.environment) for plan in plans]
    first = [next(iter(worker.stdout)).strip() for worker in workers]
    pathlib.Path("go").touch()
    more = [line.strip() for worker in workers for line in worker.stdout]
    codes = [worker.wait(60) for worker in workers]
    is_kept = signal.getsignal(signal.SIGTERM) == handler
print(json.dumps([first, more, codes, is_kept]))
"""


def placed(folder: Path, script: str, gpus_each: float, environment: Mapping[str, str]) -> tuple[Any, ...]:
    """Place a script on a cluster, once for each share; return first lines, further lines, exit codes, if signals stay.

    It is a process of its own, because Ray stays in the one it was imported in.
    """
    (folder / "script.py").write_text(script, encoding="utf-8")
    (folder / "go").unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", PLACED, "script.py", str(gpus_each)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return tuple(json.loads(done.stdout))


@needs_ray
@pytest.mark.long
def test_each_worker_has_gpus_of_its_own(tmp_path: Path) -> None:
    """The cluster's GPUs are numbers only, so what is placed on them shows its own and waits for the others."""
    script = (
        "import os, pathlib, sys, time\n"
        "print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\n"
        "while not pathlib.Path('go').exists():\n"
        "    time.sleep(0.1)\n"
        "sys.exit(3)\n"
    )
    with ray_nodes.cluster("2:2") as on_it:
        for gpus_each, expected in ((1.0, ["0", "1"]), (0.5, ["0", "0", "1", "1"])):
            first, more, codes, is_handler_kept = placed(tmp_path, script, gpus_each, on_it)
            assert (sorted(first), more, codes) == (expected, [], [3] * len(expected))
            assert is_handler_kept


@needs_ray
@pytest.mark.long
def test_a_worker_that_is_killed_again_and_again_is_given_up(tmp_path: Path) -> None:
    first, more, codes, _ = placed(tmp_path, "import os; os.kill(os.getpid(), 9)", 0, environment())
    warnings = [json.loads(line)["message"] for line in (*first, *more)]
    assert ["started again" in each for each in warnings] == [True] * (MOST_DEATHS - 1) + [False]
    assert "given up" in warnings[-1]
    assert codes == [-signal.SIGKILL]


@needs_ray
@pytest.mark.long
def test_a_worker_whose_node_dies_is_started_on_another(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, signal, sys, time\n"
        "if pathlib.Path('dead').exists():\n"
        "    print('again', flush=True)\n"
        "    sys.exit(3)\n"
        "pathlib.Path('dead').touch()\n"
        "status = pathlib.Path(f'/proc/{os.getppid()}/status').read_text()\n"
        "os.kill(int(status.partition('PPid:')[2].split()[0]), signal.SIGKILL)\n"  # of Ray's process on this node
        "time.sleep(60)\n"
    )
    with ray_nodes.cluster("0:0", "1:0", "1:0") as on_it:  # the first has no room: with it the whole cluster would go
        first, more, codes, _ = placed(tmp_path, script, 0, on_it)
    assert "was lost, as by a node that died; it is started again" in first[0]
    assert (more, codes) == (["again"], [3])
