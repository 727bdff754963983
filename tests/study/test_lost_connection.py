"""A connection that the database drops is made anew, and what was lost with it is done once more."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from sqlalchemy import Connection, event
from sqlalchemy.exc import OperationalError
from study_fakes import make_proposals, open_ledger

from autoprune.core.measurement import Measurement
from autoprune.core.trial import Completed
from autoprune.errors import StudyError
from autoprune.study import storage as storages
from autoprune.study.ledger import Ledger

DONE = Completed(Measurement({"accuracy": 0.9, "mflops": 1.0, "latency_ms": 1.0}))


class Dropping:
    """Close the connection under a few statements that begin with some words."""

    def __init__(self, ledger: Ledger, words: str, times: int) -> None:
        self.words, self.left = words, times
        event.listen(ledger._open.storage.engine, "before_cursor_execute", self)

    def __call__(self, connection: Any, cursor: Any, statement: str, *_: object) -> None:
        if self.left and statement.lstrip().startswith(self.words):
            self.left -= 1
            connection.connection.driver_connection.close()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storages, "PAUSE", 0.0)


STATEMENTS = [
    "SELECT studies",
    "SELECT trials",
    "INSERT INTO trial_user_attributes",
    "INSERT INTO trials",
    "UPDATE trials",
]


@pytest.mark.parametrize("words", STATEMENTS)
def test_asking_and_telling_go_on_after_one_loss(tmp_path: Path, words: str) -> None:
    with open_ledger(tmp_path) as ledger:
        for number in range(3):
            dropping = Dropping(ledger, words, times=1)
            candidate = ledger.ask(make_proposals(), 0)
            assert candidate.number == number
            ledger.remember("fact", number)
            trial = ledger.tell(candidate, DONE, {"score": 1.0})
            assert dropping.left == 0, "nothing was lost, so nothing was tried"
            assert trial.number == number
        assert [trial.number for trial in ledger.trials] == [0, 1, 2]
        assert ledger.facts["fact"] == 2
    with open_ledger(tmp_path) as again:
        assert [trial.outcome for trial in again.trials] == [DONE] * 3
        assert again.ask(make_proposals(), 0).number == 3, "nothing is asked a second time"


@pytest.fixture
def lost_once_written(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what has the connection lost once after the next commit, before the database has said that it is done."""
    commit = Connection.commit

    def committed_and_lost(connection: Connection) -> None:
        monkeypatch.setattr(Connection, "commit", commit)
        commit(connection)
        raise OperationalError("COMMIT", {}, Exception("lost"), connection_invalidated=True)

    return lambda: monkeypatch.setattr(Connection, "commit", committed_and_lost)


def test_a_connection_lost_after_the_last_write_is_no_second_outcome(
    tmp_path: Path, lost_once_written: Callable[[], None]
) -> None:
    with open_ledger(tmp_path) as ledger:
        candidate = ledger.ask(make_proposals(), 0)
        lost_once_written()
        assert ledger.tell(candidate, DONE, {}).outcome == DONE
        assert [trial.outcome for trial in ledger.trials] == [DONE]


def test_a_connection_lost_after_a_candidate_was_stored_is_no_second_candidate(
    tmp_path: Path, lost_once_written: Callable[[], None]
) -> None:
    with open_ledger(tmp_path) as ledger:
        lost_once_written()
        candidate = ledger.ask(make_proposals(), 0)
        assert candidate.number == 0
        assert ledger.pending == [0]
        ledger.tell(candidate, DONE, {})
        assert ledger.ask(make_proposals(), 0).number == 1
    states = [trial.state for trial in ledger._open.study.get_trials()]
    assert states == [TrialState.FAIL, TrialState.COMPLETE, TrialState.FAIL], "the first record was given up, and so 1"


def test_a_loss_that_lasts_is_said_on_one_line(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        candidate = ledger.ask(make_proposals(), 0)
        Dropping(ledger, "SELECT", times=1_000)
        with pytest.raises(StudyError, match="could not be read or written: Cannot operate on a closed database"):
            ledger.tell(candidate, DONE, {})


def test_what_the_database_refuses_is_not_tried_again(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        tries = []

        def refuse(is_second: bool) -> None:
            tries.append(is_second)
            raise sqlite3.OperationalError("database or disk is full")

        with pytest.raises(StudyError, match="full"):
            storages.tried_again(ledger._open.storage, "sqlite:///x", refuse)
        assert tries == [False]


def test_a_connection_that_waited_is_tried_before_it_is_used(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        ledger.ask(make_proposals(), 0)
        assert ledger._open.storage.engine.pool._pre_ping
