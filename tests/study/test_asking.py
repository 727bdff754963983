"""What an ask costs where many share a study: so many statements on one connection, whatever is stored or running."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import postgres
import pytest
from sqlalchemy import event, text
from study_fakes import fake_outcome, make_proposals, open_ledger, run

from autoprune.core.file_lock import ALONE, FileLock
from autoprune.errors import StudyError
from autoprune.study import asking
from autoprune.study.ledger import Ledger

MOST_STATEMENTS = 13  # of an ask, in PostgreSQL with others at work
PROPOSALS = make_proposals(sampler="guided", with_baselines=True)


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server | None]:
    if postgres.why_not():
        yield None
        return
    with postgres.server() as started:
        yield started


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, server: postgres.Server | None) -> str | None:
    """Return where a study is stored; ``None`` for SQLite in its folder."""
    if request.param == "sqlite":
        return None
    if server is None:
        pytest.skip(postgres.why_not())
    return server.new_database(f"db{abs(hash(request.node.name))}")


@dataclass
class Traffic:
    """What a ledger and its database say to each other."""

    statements: list[str] = field(default_factory=list)
    connections: int = 0


@contextmanager
def listening(ledger: Ledger) -> Iterator[Traffic]:
    engine, heard = ledger._open.storage.engine, Traffic()

    def on_statement(connection: Any, cursor: Any, statement: str, *_: object) -> None:
        heard.statements.append(statement.strip())

    def on_checkout(*_: object) -> None:
        heard.connections += 1

    event.listen(engine, "before_cursor_execute", on_statement)
    event.listen(engine, "checkout", on_checkout)
    yield heard
    event.remove(engine, "before_cursor_execute", on_statement)
    event.remove(engine, "checkout", on_checkout)


def test_an_ask_takes_one_connection_and_as_many_statements_however_much_is_stored_or_running(
    tmp_path: Path, url: str | None
) -> None:
    counts = []
    with open_ledger(tmp_path, url) as ledger, open_ledger(tmp_path, url) as other:
        for stored, running in ((2, 1), (12, 1), (12, 9)):
            list(run(ledger, PROPOSALS, stored))
            while len(other.pending) < running:
                other.ask(PROPOSALS, 0)
            with listening(ledger) as heard:
                candidate = ledger.ask(PROPOSALS, 0)
            counts.append(len(heard.statements))
            assert heard.connections == 1
            with listening(ledger) as heard:
                ledger.tell(candidate, fake_outcome(PROPOSALS, candidate), {})
            assert heard.connections == 1
            assert len(heard.statements) <= 6
    assert len(set(counts)) == 1
    assert counts[0] <= MOST_STATEMENTS


def test_who_is_dead_is_found_out_before_others_are_kept_out(
    tmp_path: Path, url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_ledger(tmp_path, url) as ledger, open_ledger(tmp_path, url) as other:
        other.ask(PROPOSALS, 0)
        within: list[str] = []
        inner = asking.alone

        @contextmanager
        def alone(*given: Any) -> Iterator[None]:
            with inner(*given), listening(ledger) as heard:
                yield
            within.extend(heard.statements)

        monkeypatch.setattr("autoprune.study.open_study.alone", alone)
        assert ledger.ask(PROPOSALS, 0).number == 1
    assert within, "the candidate is stored there"
    assert not [statement for statement in within if statement.startswith("SELECT") and "heartbeats" in statement]


def test_what_is_asked_is_stored_with_its_heartbeat_or_not_at_all(
    tmp_path: Path, url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    ledger = open_ledger(tmp_path, url)
    with monkeypatch.context() as patch:
        patch.setattr("sqlalchemy.Connection.commit", die)
        with pytest.raises(Killed):
            ledger.ask(PROPOSALS, 0)
    assert ledger._open.study.get_trials() == []
    candidate = ledger.ask(PROPOSALS, 0)
    assert (candidate.number, ledger.pending) == (0, [0])
    assert ledger._open.rows.silent(60.0) == set()
    ledger.close()


def test_a_lock_that_is_not_let_go_is_said(tmp_path: Path, url: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_ledger(tmp_path, url) as ledger, open_ledger(tmp_path, url) as other:
        candidate = ledger.ask(PROPOSALS, 0)
        monkeypatch.setattr(asking, "PATIENCE", 0.2)
        said = r"another worker of this study has held .* continue or kill it"
        with other._open.alone():
            with pytest.raises(StudyError, match=said):
                ledger.ask(PROPOSALS, 0)
            with pytest.raises(StudyError, match=said):
                ledger.tell(candidate, fake_outcome(PROPOSALS, candidate), {})
        assert ledger.pending == [0]


def test_who_waited_is_heard_of_from_when_it_was_let_in(tmp_path: Path, url: str | None) -> None:
    """The time of a transaction in PostgreSQL is when it began: a lease would be as old as its worker had waited."""
    with open_ledger(tmp_path, url) as ledger, open_ledger(tmp_path, url) as other:
        with other._open.alone():
            waiting = threading.Thread(target=ledger.ask, args=(PROPOSALS, 0))
            waiting.start()
            time.sleep(2.5)
        waiting.join(20)
        assert ledger._open.rows.silent(1.5) == set()
        assert ledger.pending == [0]


def test_a_database_whose_transactions_see_one_moment_gives_no_number_twice(
    tmp_path: Path, server: postgres.Server | None
) -> None:
    if server is None:
        pytest.skip(postgres.why_not())
    url = server.new_database("repeatable")
    server.run("ALTER DATABASE repeatable SET default_transaction_isolation = 'repeatable read'")
    with open_ledger(tmp_path, url) as ledger, open_ledger(tmp_path, url) as other:
        with ledger._open.storage.engine.connect() as connection:
            assert connection.execute(text("SHOW default_transaction_isolation")).scalar() == "repeatable read"
        numbers: list[int] = []

        def ask() -> None:
            numbers.append(ledger.ask(PROPOSALS, 0).number)

        waiting = threading.Thread(target=ask)
        with other._open.asking(()) as rows:
            waiting.start()
            time.sleep(0.5)  # it has read what is stored, and waits
            place, first = other._ask_next(rows, PROPOSALS, 0, None) or (None, None)
        waiting.join(20)
        assert place is not None
        assert first is not None
        assert [first.number, *numbers] == [0, 1]


def test_one_that_waits_for_a_file_tries_less_and_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("autoprune.core.file_lock.time.sleep", pauses.append)
    held, waits = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert held.take(ALONE)
    assert not waits.wait(ALONE, 0.05, 0.001, 0.004)
    assert pauses[:5] == pytest.approx([0.001, 0.0015, 0.00225, 0.003375, 0.004])
    assert set(pauses[4:]) == {0.004}
    pauses.clear()
    assert not waits.wait(ALONE, 0.01, 0.002)
    assert set(pauses) == {0.002}
    held.release()
    assert waits.wait(ALONE, 0.0, 0.001)
    waits.release()
