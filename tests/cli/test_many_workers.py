"""Several workers on one study, by one command or by several: nothing is lost, and scores are those of one alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
from pathlib import Path

import postgres
import pytest
from running import ALIKE, PATIENCE, losses, searching, told, until
from tiny import call, finished, stored_trials, write_study

from autoprune.cli.measure_workers import gpus_here
from autoprune.cli.worker_plan import planned_workers
from autoprune.core.trial import Completed
from autoprune.errors import UsageError
from autoprune.study.lock import is_searched
from autoprune.study.view import open_view
from autoprune.study.workers import workers_here


def test_two_workers_find_what_one_finds_and_share_the_work(tmp_path: Path) -> None:
    one, two = (write_study(tmp_path / "studies", name, trials=16, epochs=20) for name in ("tiny", "both"))
    (two / "study.toml").write_text((one / "study.toml").read_text(encoding="utf-8"), encoding="utf-8")
    assert call("search", one, *ALIKE).returncode == 0
    done = call("search", two, *ALIKE, "--workers", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["completed"] == 16
    assert finished(two) == finished(one)
    assert losses(two) == losses(one)
    view = open_view(two)
    assert {trial.session for trial in view.trials} == {0, 1}
    assert len(view.sessions) == 2
    assert done.stderr.count("[16/16]") == 1, "one display shows each trial once"
    assert "joining a search that is under way" in done.stderr
    assert workers_here(two) == []


@pytest.mark.long
def test_two_workers_share_the_preparation_and_see_what_one_sees(tmp_path: Path) -> None:
    """There is so much to look at that the second is there in time."""
    looks = ("screening.enabled=true", "screening.networks=300")
    options = ("--trials", "2", "--sampler", "guided", *(word for one in looks for word in ("--set", one)))
    found = []
    for workers in ("1", "2"):
        folder = write_study(tmp_path / workers / "studies")
        done = call("search", folder, *options, "--workers", workers)
        assert done.returncode == 0, done.stderr
        assert ("taking part in what another worker prepares" in done.stderr) == (workers == "2")
        assert done.stderr.count("looking at networks without training") == int(workers), "each of them has looked"
        assert not (folder / "divided").exists()
        curves = json.loads((folder / "sensitivity.json").read_text(encoding="utf-8"))["curves"]
        found.append((curves, (folder / "screened.jsonl").read_text(encoding="utf-8")))
    assert found[0] == found[1]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_latencies_beside_another_worker_are_those_of_one_alone_within_their_errors(tmp_path: Path) -> None:
    network = ("--model", "resnet20", "--data", "digits", "--dense-epochs", "1", "--trials", "8", "--threads", "1")
    brief = ("finetune.epochs=0.2", "space.importances=['l1']", "latency.blocks=25")
    options = (
        *network,
        "--no-screening",
        "--budget-mflops",
        "50%",
        *ALIKE,
        *(word for one in brief for word in ("--set", one)),
    )
    found = []
    for name, workers in (("one", "1"), ("two", "2")):
        done = call("search", tmp_path / name, *options, "--workers", workers, seconds=800)
        assert done.returncode == 0, done.stderr
        view = open_view(tmp_path / name)
        trials = {one.number: one.outcome.measurement for one in view.trials if isinstance(one.outcome, Completed)}
        dense = view.dense["latency_ms"]
        found.append(
            {n: (m["latency_ms"] / dense, m.error("latency_ms") / dense, m["loss"]) for n, m in trials.items()}
        )
    alone, together = found
    both = [number for number in alone if number in together and alone[number][2] == together[number][2]]
    assert len(both) >= 4, "the baselines, at least, are the same networks"
    beyond = []
    for ratio, error, other, beside in ((*alone[number][:2], *together[number][:2]) for number in both):
        allowed = 4 * (error**2 + beside**2) ** 0.5 + 0.05 * ratio  # each has a dense reference of its own
        beyond.append(abs(ratio - other) / allowed)
    # the median, as what else the machine does may disturb a single timing
    assert statistics.median(beyond) <= 1, (beyond, alone, together)


@pytest.mark.long
def test_the_same_command_in_a_second_terminal_joins(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies", trials=30, epochs=60)
    with searching(folder) as first:
        until(lambda: told(folder) >= 1, first)
        second = call("search", folder)
        assert second.returncode == 0, second.stderr
        assert f"beside process {first.pid}" in second.stderr
        assert first.wait(PATIENCE) == 0
    assert [number for number, _ in finished(folder)] == list(range(30))
    assert {trial.session for trial in open_view(folder).trials} == {0, 1}


@pytest.mark.long
def test_more_trials_may_be_asked_for_while_workers_run(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies", trials=16, epochs=10)
    with searching(folder) as first:
        until(lambda: told(folder) >= 1, first)
        assert call("search", folder, "--trials", "24").returncode == 0
        assert first.wait(PATIENCE) == 0
    assert told(folder) == 24


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupt_ends_all_workers_once_and_another_command_goes_on(tmp_path: Path, how: signal.Signals) -> None:
    folder = write_study(tmp_path / "studies", trials=24, epochs=10)
    with searching(folder, "--workers", "2") as process:
        until(lambda: told(folder) >= 2, process)
        process.send_signal(how)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == (130 if how == signal.SIGINT else 0)
    assert errors.count("Resume with") == 1
    assert "Traceback" not in errors
    assert not is_searched(folder / "study.lock")
    assert all(trial["state"] != "RUNNING" for trial in stored_trials(folder)), "candidates are given back"
    assert call("search", folder).returncode == 0
    assert [number for number, _ in finished(folder)] == list(range(24))


@pytest.mark.long
def test_a_study_that_has_its_trials_is_told_as_by_one_worker(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies", trials=3)
    assert call("search", folder).returncode == 0
    one, two = (json.loads(call("search", folder, "--json", *more).stdout) for more in ((), ("--workers", "2")))
    assert one.pop("size")["networks"] == two.pop("size")["networks"]
    assert two == one
    assert two["budget"]["mflops"] > 0


@pytest.mark.long
def test_a_killed_worker_is_said_and_the_others_finish_the_study(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies", trials=24, epochs=10)
    with searching(folder, "--workers", "2") as process:
        until(lambda: told(folder) >= 2 and len(workers_here(folder)) == 2, process)
        os.kill(workers_here(folder)[0].process, signal.SIGKILL)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert "ended early" in errors
    assert "killed by signal 9" in errors
    assert [number for number, _ in finished(folder)] == list(range(24))


@pytest.mark.long
def test_workers_end_by_themselves_when_the_command_is_killed(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies", trials=60, epochs=10)
    with searching(folder, "--workers", "2") as process:
        until(lambda: told(folder) >= 2, process)
        process.kill()
        process.wait()
        until(lambda: not is_searched(folder / "study.lock"))
    assert told(folder) < 60
    assert all(trial["state"] != "RUNNING" for trial in stored_trials(folder))


@pytest.mark.long
def test_what_ends_every_worker_is_said_once_with_its_exit_code(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies", trials=12)
    done = call("search", folder, "--workers", "2", "--set", "finetune.lr=1e30", "--json")
    assert done.returncode == 1
    assert "NonFiniteError" in done.stderr
    assert "Traceback" not in done.stderr
    assert "error" in json.loads(done.stdout)


@pytest.mark.long
@pytest.mark.skipif(bool(postgres.why_not()), reason=postgres.why_not() or "-")
def test_two_machines_search_one_study_in_postgresql_and_either_can_pick(tmp_path: Path) -> None:
    """Two folders that know nothing of each other stand for two machines; the second is a copy of the first."""
    here = write_study(tmp_path / "one", trials=30, epochs=60)
    there = tmp_path / "other" / "tiny"
    with postgres.server() as server:
        storage = ("--storage", server.new_database("two"))
        with searching(here, *storage) as first:
            until(lambda: (here / "prepared.json").exists(), first)
            refused = call("search", write_study(tmp_path / "third"), *storage)
            assert refused.returncode == 1
            assert "copy the study's folder" in refused.stderr
            shutil.copytree(here, there)
            second = call("search", there, *storage)
            assert second.returncode == 0, second.stderr
            assert first.wait(PATIENCE) == 0
        view = open_view(there, storage[1])
        assert [trial.number for trial in view.trials] == list(range(30))
        assert {trial.session for trial in view.trials} == {0, 1}
        assert postgres.PASSWORD not in second.stderr + second.stdout
        picked = call("pick", there, *storage, "--json")
        assert picked.returncode == 0, picked.stderr


@pytest.mark.long
def test_auto_takes_what_trains_most_and_measures_it_once(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies", trials=4)
    spec = folder / "study.toml"
    spec.write_text(spec.read_text(encoding="utf-8").replace("threads = 1\n", ""), encoding="utf-8")
    done = call("search", folder, "--workers", "auto", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    (measured,) = json.loads((folder / "workers.json").read_text(encoding="utf-8")).values()
    many, one = measured["steps_per_second"].values()
    assert min(many, one) > 0
    assert (measured["workers"] > 1) == (many > 0.9 * one)
    assert "measuring whether" in done.stderr
    again = call("search", folder, "--workers", "auto", "--device", "cpu", "--trials", "5")
    assert "measuring whether" not in again.stderr
    assert [number for number, _ in finished(folder)] == list(range(5))


def test_auto_is_one_on_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert gpus_here() == ["cuda:0", "cuda:1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus_here() == []


def test_workers_are_planned_as_they_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoprune.cli.worker_plan.unused_cores", lambda: 8)
    assert [plan.environment for plan in planned_workers("1", 0)] == [{}]
    assert [plan.environment for plan in planned_workers("4", 0)] == [
        {"OMP_NUM_THREADS": "2", "AUTOPRUNE_THREADS_TOGETHER": "8"}
    ] * 4
    assert [plan.environment for plan in planned_workers("4", 3)] == [{}] * 4, "the spec says how many threads"
    monkeypatch.setattr("autoprune.cli.worker_plan.unused_cores", lambda: 1)
    busy = {"OMP_NUM_THREADS": "1", "AUTOPRUNE_THREADS_TOGETHER": "2"}
    assert [plan.environment for plan in planned_workers("2", 0)] == [busy] * 2, "a moment does not decide for hours"
    monkeypatch.setattr("autoprune.cli.worker_plan.unused_cores", lambda: 8)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    on_gpus = planned_workers("cuda:0,cuda:3", 0)
    assert [plan.environment["CUDA_VISIBLE_DEVICES"] for plan in on_gpus] == ["0", "3"]
    assert [plan.options for plan in on_gpus] == [("--device", "cuda")] * 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert [plan.environment["CUDA_VISIBLE_DEVICES"] for plan in planned_workers("cuda:1", 0)] == ["7"]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("0", "is not understood"),
        ("-2", "is not understood"),
        ("many", "is not understood"),
        ("cuda", "is not understood"),
        ("cuda:0,cuda:0", "names a GPU twice"),
        ("cuda:9", "shows 2 GPU"),
        ("1000000", "more than this machine has memory for"),
    ],
)
def test_what_cannot_be_planned_is_refused(monkeypatch: pytest.MonkeyPatch, wanted: str, said: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    with pytest.raises(UsageError, match=said):
        planned_workers(wanted, 0)
