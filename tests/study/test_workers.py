"""Many workers on one study: nothing is asked twice, nothing lost, and the dead, frozen and late are found out."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
from ledger_worker import start
from optuna.trial import TrialState
from study_fakes import OBJECTIVES, fake_outcome, make_proposals, open_ledger, run

from autoprune.core.trial import Candidate
from autoprune.errors import LeaseLostError, StudyError
from autoprune.study import optuna_tables, workers
from autoprune.study.ledger import Ledger
from autoprune.study.lock import is_searched
from autoprune.study.storage_url import sqlite_url
from autoprune.study.trial_rows import ApiRows, TableRows
from autoprune.study.workers import WorkerName, workers_here

PROPOSALS = make_proposals(with_baselines=True)


def numbers(folder: Path) -> list[int]:
    with open_ledger(folder) as ledger:
        return [trial.number for trial in ledger.trials]


def late(ledger: Ledger) -> None:
    """Make every heartbeat of a study as old as those of a machine that is gone."""
    from optuna.storages._rdb.models import TrialHeartbeatModel
    from sqlalchemy import func, select, update

    with ledger._open.storage.engine.begin() as connection:
        hour = func.datetime(select(func.current_timestamp()).scalar_subquery(), "-1 hour")
        connection.execute(update(TrialHeartbeatModel).values(heartbeat=hour))


def test_two_workers_get_different_candidates_and_every_baseline_once(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as one, open_ledger(tmp_path) as other:
        asked: list[Candidate] = []
        for _ in range(6):
            pair = one.ask(PROPOSALS, 0), other.ask(PROPOSALS, 0)
            asked += pair
            for ledger, candidate in zip((other, one), reversed(pair), strict=True):
                ledger.tell(candidate, fake_outcome(PROPOSALS, candidate), {})
        assert [candidate.number for candidate in asked] == list(range(12))
        baselines = [candidate.origin for candidate in asked if candidate.is_baseline]
        assert len(baselines) == len(set(baselines)) >= 2
        assert len({candidate.policy for candidate in asked}) == 12
        assert one.trials == other.trials


def test_what_a_candidate_is_does_not_depend_on_who_evaluates_it(tmp_path: Path) -> None:
    proposals = make_proposals(with_baselines=True, seed=7)
    with open_ledger(tmp_path) as one, open_ledger(tmp_path) as other:
        shared = [ledger.ask(proposals, 7) for ledger in (one, other, one, other)]
    alone = tmp_path / "alone"
    alone.mkdir()
    with open_ledger(alone) as ledger:
        lone = list(run(ledger, proposals, 4))
    assert [(c.number, c.seed, c.policy) for c in shared] == [(c.number, c.seed, c.policy) for c in lone]


@pytest.mark.parametrize("sampler", ["guided", "tpe", "gp", "nsga2", "random"])
def test_no_worker_proposes_what_another_evaluates(tmp_path: Path, sampler: str) -> None:
    proposals = make_proposals(sampler=sampler)
    with open_ledger(tmp_path) as ledger:
        list(run(ledger, proposals, 12))
        asked = [ledger.ask(proposals, 0) for _ in range(6)]
        known = {trial.candidate.policy for trial in ledger.trials}
    policies = [candidate.policy for candidate in asked]
    assert len(set(policies)) == 6
    assert not known & set(policies)


def test_nothing_is_asked_beyond_the_total_of_finished_and_pending(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as one, open_ledger(tmp_path) as other:
        first = one.ask_within(PROPOSALS, 0, 2)
        assert other.ask_within(PROPOSALS, 0, 2) is not None
        assert one.ask_within(PROPOSALS, 0, 2) is None
        assert first is not None
        one.tell(first, fake_outcome(PROPOSALS, first), {})
        assert one.ask_within(PROPOSALS, 0, 2) is None
        assert one.ask_within(PROPOSALS, 0, 3) is not None


# -- who is gone ------------------------------------------------------------------------------------------------------


def test_a_worker_that_ends_gives_its_candidate_back_at_once(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as stays:
        leaves = open_ledger(tmp_path)
        left = leaves.ask(PROPOSALS, 0)
        assert [worker.process for worker in stays.others] == [os.getpid()]
        leaves.close()
        assert stays.others == []
        assert stays.ask(PROPOSALS, 0) == left


def test_a_killed_worker_loses_its_candidate_to_the_next_who_asks(tmp_path: Path) -> None:
    process = start(tmp_path, 3, pause=60)
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "0\n"
        with open_ledger(tmp_path) as ledger:
            assert [worker.process for worker in ledger.others] == [process.pid]
            assert ledger.ask(PROPOSALS, 0).number == 1
            process.kill()
            process.wait()
            assert ledger.ask(PROPOSALS, 0).number == 0
            assert ledger.others == []
    assert not is_searched(tmp_path / "study.lock")


def test_a_frozen_worker_is_taken_over_after_its_grace_and_told_so_when_it_wakes(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as frozen, open_ledger(tmp_path) as other:
        candidate = frozen.ask(PROPOSALS, 0)
        assert other.ask(PROPOSALS, 0).number == 1, "it is heard of"
        late(frozen)
        again = other.ask(PROPOSALS, 0)
        assert again == candidate
        other.tell(again, fake_outcome(PROPOSALS, again), {})
        with pytest.raises(LeaseLostError, match="trial 0 was given to another worker"):
            frozen.tell(candidate, fake_outcome(PROPOSALS, candidate), {})
        assert [trial.number for trial in other.trials] == [0]


def test_heartbeats_keep_a_lease_alive(tmp_path: Path) -> None:
    url, lock = sqlite_url(tmp_path / "study.db"), tmp_path / "study.lock"
    with (
        Ledger(url, "fake", OBJECTIVES, lock, grace_seconds=3) as slow,
        Ledger(url, "fake", OBJECTIVES, lock, grace_seconds=3) as other,
    ):
        candidate = slow.ask(PROPOSALS, 0)
        until = time.monotonic() + 5
        while time.monotonic() < until:
            time.sleep(0.5)
            other._open.take_in()
            assert other._open.reclaim(other._open.rows) == []
        slow.tell(candidate, fake_outcome(PROPOSALS, candidate), {})


def test_a_clock_of_the_database_that_jumps_costs_a_second_evaluation_at_most(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as one, open_ledger(tmp_path) as other:
        first = one.ask(PROPOSALS, 0)
        late(one)
        again = other.ask(PROPOSALS, 0)
        other.tell(again, fake_outcome(PROPOSALS, again), {})
        with pytest.raises(LeaseLostError):
            one.tell(first, fake_outcome(PROPOSALS, first), {})
        list(run(one, PROPOSALS, 4))
        assert [trial.number for trial in one.trials] == [0, 1, 2, 3]


def test_an_outcome_that_could_not_be_written_is_evaluated_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_ledger(tmp_path) as ledger:
        candidate = ledger.ask(PROPOSALS, 0)
        with monkeypatch.context() as patch:
            patch.setattr(optuna_tables, "end_running", _full_disk)
            with pytest.raises(OSError, match="full"):
                ledger.tell(candidate, fake_outcome(PROPOSALS, candidate), {})
        list(run(ledger, PROPOSALS, 2))
        assert [trial.number for trial in ledger.trials] == [0, 1]


def _full_disk(*_: object, **__: object) -> None:
    raise OSError("full")


def test_another_machine_is_refused_where_the_storage_serves_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_ledger(tmp_path) as here:
        here.ask(PROPOSALS, 0)
        monkeypatch.setattr(workers.socket, "gethostname", lambda: "elsewhere")
        with pytest.raises(StudyError, match=r"--storage postgresql"):
            open_ledger(tmp_path)
        assert [worker.host for worker in workers_here(tmp_path)] == [here.worker.host], "it left nothing behind"


def test_both_ways_of_reading_agree_on_who_is_silent(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.ask(PROPOSALS, 0)
        opened = ledger._open
        ways = [kind(opened.storage, opened.study_id).silent for kind in (TableRows, ApiRows)]
        assert [way(30) for way in ways] == [set(), set()]
        late(ledger)
        assert [way(30) for way in ways] == [{0}, {0}]


def test_names_of_workers_are_read_as_they_are_written(tmp_path: Path) -> None:
    name = WorkerName.new(tmp_path)
    assert WorkerName.parse(str(name)) == name
    assert name.process == os.getpid()
    assert WorkerName.new(tmp_path) != name


# -- many -------------------------------------------------------------------------------------------------------------


def test_four_processes_at_once_lose_nothing_and_do_nothing_twice(tmp_path: Path) -> None:
    processes = [start(tmp_path, 40, pause=0.01) for _ in range(4)]
    told = Counter[int]()
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        told.update(map(int, output.split()))
    assert numbers(tmp_path) == list(range(40))
    assert told == Counter(range(40))


def test_workers_that_are_killed_again_and_again_lose_nothing(tmp_path: Path) -> None:
    """Small here; ``scripts/kill_campaign.py`` does it by hundreds."""
    processes = [start(tmp_path, 30, pause=0.02) for _ in range(3)]
    for kill in range(6):
        time.sleep(0.9)
        victim = processes[kill % 3]
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        processes[kill % 3] = start(tmp_path, 30, pause=0.02)
    for process in processes:
        process.communicate(timeout=120)
        assert process.returncode == 0
    assert numbers(tmp_path) == list(range(30))
    study = optuna.load_study(storage=sqlite_url(tmp_path / "study.db"), study_name="fake")
    assert not study.get_trials(states=(TrialState.RUNNING,)), "no lease is left"
    assert workers_here(tmp_path) == []
