"""One study in PostgreSQL, searched from several machines: folders that know nothing of each other, one database."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import postgres
import pytest
from ledger_worker import start
from sqlalchemy import event
from sqlalchemy.engine import Engine
from study_fakes import fake_outcome, make_proposals, open_ledger, run

from autoprune.core.trial import Completed
from autoprune.errors import LeaseLostError, StudyElsewhereError, StudyError
from autoprune.study.ledger import Ledger
from autoprune.study.storage import open_storage

pytestmark = pytest.mark.skipif(bool(postgres.why_not()), reason=postgres.why_not() or "-")
PROPOSALS = make_proposals(with_baselines=True)


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    with postgres.server() as started:
        yield started


@pytest.fixture
def url(server: postgres.Server, request: pytest.FixtureRequest) -> str:
    return server.new_database(f"db{abs(hash(request.node.name))}")


@pytest.fixture
def hosts(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    return tmp_path / "one", tmp_path / "other"


def late(ledger: Ledger) -> None:
    """Make every heartbeat as old as that of a machine that is gone."""
    from sqlalchemy import text

    with ledger._open.storage.engine.begin() as connection:
        connection.execute(text("UPDATE trial_heartbeats SET heartbeat = heartbeat - interval '1 hour'"))


def end_connections(server: postgres.Server, url: str, which: str = "") -> None:
    """End the connections to a database, as an administrator may."""
    database = url.rpartition("/")[2]
    server.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}' {which}")


def test_two_machines_share_a_study_and_neither_ends_what_the_other_evaluates(
    url: str, hosts: tuple[Path, Path]
) -> None:
    with open_ledger(hosts[0], url) as one, open_ledger(hosts[1], url) as other:
        first, second = one.ask(PROPOSALS, 0), other.ask(PROPOSALS, 0)
        assert (first.number, second.number) == (0, 1)
        assert first.policy != second.policy
        assert other.others == [one.worker]
        with open_ledger(hosts[1], url) as third:
            assert third.reclaimed == 0
        one.tell(first, fake_outcome(PROPOSALS, first), {})
        other.tell(second, fake_outcome(PROPOSALS, second), {})
        list(run(one, PROPOSALS, 6))
        assert one.trials == other.trials
        assert [trial.number for trial in one.trials] == list(range(6))


def test_a_machine_that_is_gone_is_taken_over_after_its_grace_and_told_when_it_comes_back(
    url: str, hosts: tuple[Path, Path]
) -> None:
    with open_ledger(hosts[0], url) as gone, open_ledger(hosts[1], url) as other:
        lost = gone.ask(PROPOSALS, 0)
        assert other.ask(PROPOSALS, 0).number == 1
        late(gone)
        again = other.ask(PROPOSALS, 0)
        assert again == lost
        other.tell(again, fake_outcome(PROPOSALS, again), {})
        with pytest.raises(LeaseLostError):
            gone.tell(lost, fake_outcome(PROPOSALS, lost), {})


def test_four_processes_of_two_machines_lose_nothing_and_do_nothing_twice(url: str, hosts: tuple[Path, Path]) -> None:
    processes = [start(hosts[number % 2], 40, 0.01, url) for number in range(4)]
    told = Counter[int]()
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        told.update(map(int, output.split()))
    with open_ledger(hosts[0], url) as ledger:
        assert [trial.number for trial in ledger.trials] == list(range(40))
    assert told == Counter(range(40))


def test_killed_processes_and_ended_connections_lose_nothing(
    server: postgres.Server, url: str, hosts: tuple[Path, Path]
) -> None:
    processes = [start(hosts[0], 24, 0.05, url) for _ in range(2)]
    for kill in range(4):
        time.sleep(1.2)
        processes[kill % 2].kill()
        processes[kill % 2].communicate()
        end_connections(server, url, "AND state = 'idle'")
        processes[kill % 2] = start(hosts[0], 24, 0.05, url)
    for process in processes:
        process.communicate(timeout=120)
        assert process.returncode == 0
    with open_ledger(hosts[0], url) as ledger:
        assert [trial.number for trial in ledger.trials] == list(range(24))


@pytest.mark.parametrize("meanwhile", ["alembic_version", "SELECT studies.", "FROM trials"])
def test_a_connection_that_ends_while_a_study_is_opened_is_made_anew(
    server: postgres.Server, url: str, hosts: tuple[Path, Path], meanwhile: str
) -> None:
    with open_ledger(hosts[0], url) as ledger:
        list(run(ledger, PROPOSALS, 2))
        ledger.ask(PROPOSALS, 0)
    ended = 0

    def end_all(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        nonlocal ended
        if meanwhile in statement and not ended:
            ended += 1
            end_connections(server, url)

    event.listen(Engine, "before_cursor_execute", end_all)
    try:
        with open_ledger(hosts[1], url) as ledger:
            assert ended == 1
            list(run(ledger, PROPOSALS, 4))
            assert [trial.number for trial in ledger.trials] == [0, 1, 2, 3]
    finally:
        event.remove(Engine, "before_cursor_execute", end_all)


def test_a_database_that_was_stopped_and_started_meanwhile_is_used_again(
    server: postgres.Server, url: str, hosts: tuple[Path, Path]
) -> None:
    with open_ledger(hosts[0], url) as ledger:
        candidate = ledger.ask(PROPOSALS, 0)
        server.stop()
        server.start()
        ledger.tell(candidate, fake_outcome(PROPOSALS, candidate), {})
        list(run(ledger, PROPOSALS, 3))
        assert [trial.number for trial in ledger.trials] == [0, 1, 2]


def test_a_database_that_is_away_is_said_and_its_trials_are_safe(
    server: postgres.Server, url: str, hosts: tuple[Path, Path]
) -> None:
    with open_ledger(hosts[0], url) as ledger:
        list(run(ledger, PROPOSALS, 2))
        candidate = ledger.ask(PROPOSALS, 0)
        server.stop()
        try:
            with pytest.raises(StudyError, match="Finished trials are safe") as caught:
                ledger.tell(candidate, fake_outcome(PROPOSALS, candidate), {})
        finally:
            server.start()
        assert postgres.PASSWORD not in str(caught.value)
    with open_ledger(hosts[0], url) as ledger:
        assert ledger.ask(PROPOSALS, 0) == candidate


@pytest.mark.parametrize("zones", [("Asia/Tokyo", "America/Los_Angeles"), ("America/Los_Angeles", "Asia/Tokyo")])
def test_time_is_told_alike_whatever_zone_a_connection_is_in(
    url: str, hosts: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, zones: tuple[str, str]
) -> None:
    monkeypatch.setenv("PGTZ", zones[0])
    with open_ledger(hosts[0], url) as one:
        one.ask(PROPOSALS, 0)
        monkeypatch.setenv("PGTZ", zones[1])
        with open_ledger(hosts[1], url) as other:
            assert other.ask(PROPOSALS, 0).number == 1


@pytest.mark.parametrize("password", ["wrong", "h:u@n/t%er"])
def test_wrong_credentials_are_said_without_the_password(server: postgres.Server, password: str) -> None:
    with pytest.raises(StudyError, match="cannot be opened") as caught:
        open_storage(server.url(password=password))
    assert password not in str(caught.value)
    assert "authentication failed" in str(caught.value)


def test_a_study_of_a_search_looks_alike_in_both_storages(url: str, hosts: tuple[Path, Path]) -> None:
    with open_ledger(hosts[0], url) as ledger:
        list(run(ledger, PROPOSALS, 8))
        stored = ledger.trials
    with open_ledger(hosts[1]) as ledger:
        list(run(ledger, PROPOSALS, 8))
        assert ledger.trials == stored
    assert sum(isinstance(trial.outcome, Completed) for trial in stored) > 3


def test_a_folder_without_the_dense_network_is_refused_before_one_is_trained(
    url: str, hosts: tuple[Path, Path]
) -> None:
    with open_ledger(hosts[0], url) as one, open_ledger(hosts[1], url) as other:
        one.preparation.claim(False)
        one.preparation.claim(True)
        with pytest.raises(StudyElsewhereError, match=f"began on {one.worker.host}.*copy the study's folder"):
            other.preparation.claim(False)
        other.preparation.claim(True)
