"""The ledger: nothing is lost, nothing is done twice, whatever kills the process and whenever."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from sqlalchemy import Connection
from study_fakes import OBJECTIVES, fake_outcome, make_proposals, open_ledger, run

from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.trial import Completed, Failed, Outcome, OverBudget, Stopped, Trial
from autoprune.errors import StudyError, StudyLockedError
from autoprune.search.proposals.proposer import Proposals
from autoprune.study import optuna_tables
from autoprune.study.folder import StudyFolder
from autoprune.study.ledger import Ledger
from autoprune.study.policy_params import policy_of
from autoprune.study.spec import StudySpec
from autoprune.study.spec_toml import write_resolved
from autoprune.study.storage_url import sqlite_url
from autoprune.study.view import open_view

EXACT = Measurement({"mflops": 12.5, "mparams": 0.1, "size_mb": 0.4}, {}, ("biases",))
SCORED = EXACT.merged(Measurement({"accuracy": 0.875, "loss": 0.5}, {"accuracy": 0.01, "loss": 0.02}))
OUTCOMES: tuple[Outcome, ...] = (
    Completed(SCORED),
    OverBudget(EXACT, {"mflops": 0.25}),
    Stopped("clearly worse than its peers", EXACT),
    Failed("NonFiniteError", "the loss is nan\nat step 3", "Traceback …"),
)


class Killed(BaseException):
    """Stand for SIGKILL: nothing below may catch it, nothing after it runs."""


def raw_trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    study = optuna.load_study(storage=sqlite_url(folder / "study.db"), study_name="fake")
    return study.get_trials()


# -- ask and tell -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: type(outcome).__name__)
def test_every_outcome_is_read_back_as_it_was_told(tmp_path: Path, outcome: Outcome) -> None:
    proposals = make_proposals()
    with open_ledger(tmp_path) as ledger:
        candidate = ledger.ask(proposals, seed=3)
        told = ledger.tell(candidate, outcome, {"score": 0.123456, "ask": 0.5})
        assert ledger.trials == [told]
    with open_ledger(tmp_path) as ledger:
        assert ledger.trials == [Trial(candidate, outcome, {"score": 0.123456, "ask": 0.5}, 0)]
        assert ledger.reclaimed == 0


def test_optuna_sees_each_outcome_in_its_own_terms(tmp_path: Path) -> None:
    proposals = make_proposals()
    with open_ledger(tmp_path) as ledger:
        for outcome in OUTCOMES:
            ledger.tell(ledger.ask(proposals, 0), outcome, {})
    stored = raw_trials(tmp_path)
    assert [record.state.name for record in stored] == ["COMPLETE", "FAIL", "PRUNED", "FAIL"]
    assert stored[0].values == [0.875, 12.5]
    study = optuna.load_study(storage=sqlite_url(tmp_path / "study.db"), study_name="fake")
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]


def test_numbers_are_consecutive_and_stored_parameters_are_the_policy(tmp_path: Path) -> None:
    proposals = make_proposals(with_baselines=True, residual=(0,))
    with open_ledger(tmp_path) as ledger:
        candidates = list(run(ledger, proposals, 12))
    assert [candidate.number for candidate in candidates] == list(range(12))
    assert len({candidate.seed for candidate in candidates}) == 12
    assert [policy_of(proposals.space, record.params) for record in raw_trials(tmp_path)] == [
        c.policy for c in candidates
    ]
    assert all(candidate.budget == proposals.budget for candidate in candidates)
    origins = [candidate.origin for candidate in candidates]
    baselines = [origin for origin in origins if origin.startswith("baseline:")]
    assert baselines[:2] == ["baseline:uniform", "baseline:inner"]
    assert origins == [*baselines, *["sampler:random"] * (12 - len(baselines))]


def test_numbers_are_consecutive_across_sessions_and_baselines_are_not_repeated(tmp_path: Path) -> None:
    proposals = make_proposals(with_baselines=True)
    for total in (2, 3, 7):
        with open_ledger(tmp_path) as ledger:
            list(run(ledger, proposals, total))
    with open_ledger(tmp_path) as ledger:
        assert [trial.number for trial in ledger.trials] == list(range(7))
        origins = [trial.candidate.origin for trial in ledger.trials]
    baselines = [origin for origin in origins if origin.startswith("baseline:")]
    assert len(baselines) == len(set(baselines)) >= 1


def test_another_budget_has_its_own_baselines_in_the_same_study(tmp_path: Path) -> None:
    first, second = make_proposals(with_baselines=True, share=0.5), make_proposals(with_baselines=True, share=0.3)
    with open_ledger(tmp_path) as ledger:
        list(run(ledger, first, 4))
        before = [t.candidate for t in ledger.trials]
        list(run(ledger, second, 8))
        after = [t.candidate for t in ledger.trials][4:]
    uniform = [c for c in (*before, *after) if c.origin == "baseline:uniform"]
    assert [c.budget for c in uniform] == [first.budget, second.budget]
    assert uniform[0].policy != uniform[1].policy


def test_a_candidate_is_told_once_and_only_by_who_asked(tmp_path: Path) -> None:
    proposals = make_proposals()
    with open_ledger(tmp_path) as ledger:
        candidate = ledger.ask(proposals, 0)
        ledger.tell(candidate, OUTCOMES[0], {})
        with pytest.raises(StudyError, match="not asked in this run"):
            ledger.tell(candidate, OUTCOMES[1], {})
        assert [trial.outcome for trial in ledger.trials] == [OUTCOMES[0]]


def test_facts_and_sessions_are_counted_and_stored(tmp_path: Path) -> None:
    proposals = make_proposals()
    for session in range(3):
        with open_ledger(tmp_path) as ledger:
            assert ledger.begin_session({"budget": proposals.budget.to_json(), "n": session}) == session
            ledger.remember("dense", {"values": {"mflops": 1.5}})
            list(run(ledger, proposals, 2 * (session + 1)))
    with open_ledger(tmp_path) as ledger:
        facts = ledger.facts
        assert [trial.session for trial in ledger.trials] == [0, 0, 1, 1, 2, 2]
    assert facts["dense"] == {"values": {"mflops": 1.5}}
    assert [facts[f"session:{n}"]["n"] for n in range(3)] == [0, 1, 2]
    assert Budget.parse(facts["session:2"]["budget"]) == proposals.budget
    assert "session:3" not in facts


# -- locks -----------------------------------------------------------------------------------------------------------


def test_whoever_holds_a_study_alone_keeps_workers_out_until_it_dies(tmp_path: Path) -> None:
    holder = (
        "import filelock, sys, time; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); "
        "print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path / "study.lock")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "held\n"
            with pytest.raises(StudyLockedError):
                open_ledger(tmp_path)
        finally:
            process.kill()
    open_ledger(tmp_path).close()


def test_a_ledger_that_cannot_be_opened_frees_its_lock(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StudyError):
        open_ledger(tmp_path)
    (tmp_path / "study.db").unlink()
    open_ledger(tmp_path).close()


# -- resuming ---------------------------------------------------------------------------------------------------------


def test_a_candidate_left_running_is_asked_again_as_it_was_exactly_once(tmp_path: Path) -> None:
    proposals = make_proposals()
    with open_ledger(tmp_path) as ledger:
        list(run(ledger, proposals, 2))
        left = ledger.ask(proposals, 0)
    other = make_proposals(share=0.3, seed=9)  # a later run's wishes do not change what was asked
    with open_ledger(tmp_path) as ledger:
        assert ledger.reclaimed == 1
        again = ledger.ask(other, 9)
        assert again == left
        ledger.tell(again, OUTCOMES[0], {})
        assert ledger.ask(other, 9).number == left.number + 1
    with open_ledger(tmp_path) as ledger:
        assert [trial.number for trial in ledger.trials] == [0, 1, 2]
        assert ledger.trials[2].candidate == left


def test_a_candidate_that_dies_again_and_again_keeps_its_number(tmp_path: Path) -> None:
    proposals = make_proposals()
    asked = []
    for _ in range(4):
        with open_ledger(tmp_path) as ledger:
            asked.append(ledger.ask(proposals, 0))
    assert asked == [asked[0]] * 4
    with open_ledger(tmp_path) as ledger:
        list(run(ledger, proposals, 3))
        assert [trial.number for trial in ledger.trials] == [0, 1, 2]


def test_an_outcome_written_but_not_told_is_finished_and_not_evaluated_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna's API writes an outcome before the state that ends its trial."""
    monkeypatch.setattr(optuna_tables, "KNOWN_SCHEMA", ())
    proposals = make_proposals()
    for outcome in OUTCOMES:
        killed = open_ledger(tmp_path)
        candidate = killed.ask(proposals, 0)
        with monkeypatch.context() as patch:
            patch.setattr(RDBStorage, "set_trial_state_values", _die)
            with pytest.raises(Killed):
                killed.tell(candidate, outcome, {"score": 1.0})
        killed.close(gives_back=False)
        with open_ledger(tmp_path) as ledger:
            assert ledger.reclaimed == 1
            assert ledger.trials[-1].candidate == candidate
            assert ledger.trials[-1].outcome == outcome
    assert [record.state.name for record in raw_trials(tmp_path)] == ["COMPLETE", "FAIL", "PRUNED", "FAIL"]
    assert raw_trials(tmp_path)[0].values == [0.875, 12.5]


def _die(*_: Any, **__: Any) -> None:
    raise Killed


def test_a_candidate_asked_again_stays_in_its_generation(tmp_path: Path) -> None:
    """NSGA-II breeds from whole generations: a lost one that came back without its own would change all that follow."""
    proposals = make_proposals(sampler="nsga2")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder, kills in ((whole, ()), (killed, (3, 3))):
        folder.mkdir()
        for died_at in kills:
            with open_ledger(folder) as ledger:
                list(run(ledger, proposals, died_at))
                ledger.ask(proposals, 0)
        with open_ledger(folder) as ledger:
            list(run(ledger, proposals, 34))  # a generation is 20, and of eight trials five complete
    with open_ledger(whole) as one, open_ledger(killed) as other:
        assert [trial.candidate for trial in other.trials] == [trial.candidate for trial in one.trials]


# -- killed at every write --------------------------------------------------------------------------------------------

WRITES = (
    (RDBStorage, "create_new_study"),
    (RDBStorage, "set_study_user_attr"),
    (RDBStorage, "set_study_system_attr"),
    (RDBStorage, "_create_new_trial"),  # this and the next but one the cache in front of the database calls
    (RDBStorage, "set_trial_state_values"),
    (RDBStorage, "_set_trial_param"),
    (RDBStorage, "set_trial_user_attr"),
    (RDBStorage, "set_trial_system_attr"),
    (optuna_tables, "insert_running"),
    (optuna_tables, "insert_details"),
    (optuna_tables, "end_running"),
    (Connection, "commit"),  # of what was asked or told; the transactions of Optuna's sessions go another way
)
BY_TABLES = {"_create_new_trial", "insert_details", "end_running", "commit"}
BY_API = {"_create_new_trial", "set_trial_state_values", "set_trial_user_attr", "_set_trial_param"}


@contextmanager
def dying_at(write: int, after: bool) -> Iterator[list[str]]:
    """Let the process die at one write to the database, before or after it is committed; yield the writes done."""
    done: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for where, name in WRITES:
            patch.setattr(where, name, _counted(getattr(where, name), name, done, write, after))
        yield done


def _counted(method: Callable[..., Any], name: str, done: list[str], write: int, after: bool) -> Callable[..., Any]:
    def counted(*args: Any, **kwargs: Any) -> Any:
        done.append(name)
        if len(done) > write:
            if after and len(done) == write + 1:
                method(*args, **kwargs)
            raise Killed
        return method(*args, **kwargs)

    return counted


Asked = list[tuple[int, str, int, str]]


def session(folder: Path, proposals: Proposals, total: int, evaluated: list[int]) -> Asked:
    """Search to the end; note the numbers that were evaluated, and return what the study then holds."""
    with open_ledger(folder) as ledger:
        ledger.begin_session({"budget": proposals.budget.to_json()})
        for candidate in run(ledger, proposals, total):
            evaluated.append(candidate.number)
        return [(t.number, t.candidate.policy.to_json(), t.candidate.seed, t.candidate.origin) for t in ledger.trials]


def uninterrupted(folder: Path, proposals: Proposals, total: int) -> tuple[Asked, int]:
    """Return what a study holds that nothing interrupts, and how many writes that takes."""
    with dying_at(10**9, after=False) as done:
        asked = session(folder, proposals, total, [])
    expected = BY_TABLES if optuna_tables.KNOWN_SCHEMA else BY_API
    assert set(done) >= expected, "a write is not counted, so it would not be tried"
    assert [number for number, *_ in asked] == list(range(total))
    return asked, len(done)


@pytest.fixture
def new_folder(tmp_path: Path) -> Callable[[], Path]:
    """Return a maker of folders with an empty database, copied because making its tables takes longest."""
    template, numbers = tmp_path / "template", itertools.count()
    template.mkdir()
    RDBStorage(sqlite_url(template / "study.db")).engine.dispose()
    return lambda: shutil.copytree(template, tmp_path / f"study-{next(numbers)}")


@pytest.mark.long
@pytest.mark.parametrize("way", ["tables", "api"])
@pytest.mark.parametrize("after", [False, True], ids=["before-commit", "after-commit"])
def test_a_kill_at_any_write_of_a_new_study_loses_and_repeats_nothing(
    new_folder: Callable[[], Path], monkeypatch: pytest.MonkeyPatch, after: bool, way: str
) -> None:
    """A baseline is stored in one transaction, a draw of an Optuna sampler's in two or more."""
    if way == "api":
        monkeypatch.setattr(optuna_tables, "KNOWN_SCHEMA", ())
    proposals = make_proposals((6, 8), with_baselines=True)
    total = 4
    expected, writes = uninterrupted(new_folder(), proposals, total)
    assert {origin.partition(":")[0] for *_, origin in expected} == {"baseline", "sampler"}
    for write in range(writes):
        folder = new_folder()
        evaluated: list[int] = []
        with dying_at(write, after), suppress(Killed):
            session(folder, proposals, total, evaluated)
        assert session(folder, proposals, total, evaluated) == expected, f"killed at write {write}"
        assert len(evaluated) == len(set(evaluated)), f"evaluated twice after write {write}"


def test_a_kill_at_any_write_of_a_study_that_has_learned_changes_no_proposal(tmp_path: Path) -> None:
    proposals = make_proposals((6, 8), sampler="tpe")
    (tmp_path / "begun").mkdir()
    session(tmp_path / "begun", proposals, 11, [])  # TPE proposes at random before its tenth
    shutil.copytree(tmp_path / "begun", tmp_path / "whole")
    expected, writes = uninterrupted(tmp_path / "whole", proposals, 13)
    for write in range(writes):
        folder = tmp_path / f"killed-{write}"
        shutil.copytree(tmp_path / "begun", folder)
        evaluated: list[int] = []
        with dying_at(write, after=write % 2 == 0), suppress(Killed):
            session(folder, proposals, 13, evaluated)
        assert session(folder, proposals, 13, evaluated) == expected, f"killed at write {write}"
        assert len(evaluated) == len(set(evaluated)), f"evaluated twice after write {write}"


def test_kills_that_follow_one_another_lose_and_repeat_nothing(new_folder: Callable[[], Path]) -> None:
    proposals = make_proposals((6, 8))
    expected, writes = uninterrupted(new_folder(), proposals, 2)
    for write in range(2, writes, 4):
        folder = new_folder()
        evaluated: list[int] = []
        for first, after in ((write, False), (write // 2, True), (write // 3, False)):
            with dying_at(first, after), suppress(Killed):
                session(folder, proposals, 2, evaluated)
        assert session(folder, proposals, 2, evaluated) == expected, f"killed at write {write} and then twice more"
        assert len(evaluated) == len(set(evaluated))


# -- storage ----------------------------------------------------------------------------------------------------------


def test_another_storage_url_holds_the_trials(tmp_path: Path) -> None:
    proposals, url = make_proposals(), f"sqlite:///{tmp_path / 'other.db'}"
    with open_ledger(tmp_path, url) as ledger:
        list(run(ledger, proposals, 3))
    assert not (tmp_path / "study.db").exists()
    with open_ledger(tmp_path, url) as ledger:
        assert [trial.number for trial in ledger.trials] == [0, 1, 2]


def test_one_storage_holds_several_studies(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "shared.db")
    proposals = make_proposals()
    with (
        Ledger(url, "one", OBJECTIVES, tmp_path / "one.lock") as one,
        Ledger(url, "two", OBJECTIVES, tmp_path / "two.lock") as two,
    ):
        list(run(one, proposals, 2))
        list(run(two, proposals, 1))
        assert (len(one.trials), len(two.trials)) == (2, 1)


@pytest.mark.parametrize(
    "content", [b"not a database at all" * 500, b"SQLite format 3\0" + b"\xff" * 8000, b"\0" * 5000]
)
def test_a_corrupt_database_is_a_study_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "study.db").write_bytes(content)
    with pytest.raises(StudyError, match=r"study\.db"):
        open_ledger(tmp_path)


def test_a_database_damaged_in_the_middle_is_a_study_error(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        list(run(ledger, make_proposals(), 6))
    optuna.storages.RDBStorage(sqlite_url(tmp_path / "study.db")).engine.dispose()
    database = tmp_path / "study.db"
    for extra in tmp_path.glob("study.db-*"):
        extra.unlink()
    damaged = bytearray(database.read_bytes())
    damaged[4096:] = b"\xee" * (len(damaged) - 4096)
    database.write_bytes(bytes(damaged))
    with pytest.raises(StudyError, match=r"study\.db"):
        open_ledger(tmp_path)


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////no/such/folder/study.db", "oracle+nothing://x/y"])
def test_a_storage_that_cannot_be_opened_is_a_study_error(tmp_path: Path, url: str) -> None:
    with pytest.raises(StudyError, match="cannot be opened") as caught:
        open_ledger(tmp_path, url)
    assert url in str(caught.value)


def test_a_password_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        open_ledger(tmp_path, "oracle+nothing://user:secret@host/study")
    assert "secret" not in str(caught.value)
    assert "user" in str(caught.value)


def test_a_lock_where_no_file_can_be_is_a_study_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="cannot be taken"):
        Ledger(sqlite_url(tmp_path / "study.db"), "fake", OBJECTIVES, tmp_path / "file" / "study.lock")


def fill_the_disk(ledger: Ledger) -> None:
    """Let SQLite itself refuse to grow the database any further, as on a full disk."""
    from sqlalchemy import event

    engine = ledger._open.study._storage._backend.engine  # type: ignore[attr-defined]
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA max_page_count = 1"))
    engine.dispose()


def ask_often(ledger: Ledger, proposals: Proposals) -> None:
    for _ in range(1000):  # pages are still free at first
        ledger.ask(proposals, 0)


def test_a_full_disk_is_a_study_error_and_the_study_goes_on_once_there_is_room(tmp_path: Path) -> None:
    proposals = make_proposals()
    with open_ledger(tmp_path) as ledger:
        list(run(ledger, proposals, 2))
        candidate = ledger.ask(proposals, 0)
        fill_the_disk(ledger)
        huge = Failed("ModelError", "x" * 1500, "y" * 2_000_000)
        with pytest.raises(StudyError, match="database or disk is full") as caught:
            ledger.tell(candidate, huge, {})
        assert "free the disk" in str(caught.value)
        with pytest.raises(StudyError, match="full"):
            ledger.remember("much", "z" * 2_000_000)
        with pytest.raises(StudyError, match="full"):
            ask_often(ledger, proposals)
    with open_ledger(tmp_path) as ledger:
        assert [trial.number for trial in ledger.trials] == [0, 1]
        assert ledger.ask(proposals, 0) == candidate


@pytest.mark.parametrize(
    ("where", "method", "schema"),
    [
        (RDBStorage, "_create_new_trial", None),
        (RDBStorage, "set_trial_user_attr", ()),
        (RDBStorage, "set_trial_state_values", ()),
        (RDBStorage, "_get_trials", None),
        (RDBStorage, "_set_trial_param", ()),  # by Optuna's API
        (optuna_tables, "insert_details", None),  # by its tables
        (optuna_tables, "end_running", None),
        (optuna_tables, "read_rows", None),
    ],
)
def test_what_the_database_raises_becomes_a_study_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, method: str, schema: tuple[str, ...] | None
) -> None:
    import sqlite3

    def refuse(*_: Any, **__: Any) -> None:
        fault = sqlite3.OperationalError("disk I/O error")
        raise optuna.exceptions.StorageInternalError("An exception is raised during the commit.") from fault

    if schema is not None:
        monkeypatch.setattr(optuna_tables, "KNOWN_SCHEMA", schema)
    with open_ledger(tmp_path) as ledger:
        monkeypatch.setattr(where, method, refuse)
        with pytest.raises(StudyError, match="disk I/O error") as caught:
            list(run(ledger, make_proposals(), 1))
        assert "study.db" in str(caught.value)


# -- reading beside a search ------------------------------------------------------------------------------------------


def stored_spec(folder: Path) -> None:
    write_resolved(StudySpec(name="fake", objectives=OBJECTIVES), StudyFolder(folder).resolved)


def test_a_view_reads_beside_an_open_ledger(tmp_path: Path) -> None:
    proposals = make_proposals()
    stored_spec(tmp_path)
    with open_ledger(tmp_path) as ledger:
        ledger.remember("dense", proposals.dense.to_json())
        ledger.begin_session({"budget": proposals.budget.to_json()})
        for told in range(1, 4):
            list(run(ledger, proposals, told))
            candidate = ledger.ask(proposals, 0)
            view = open_view(tmp_path)
            assert list(view.trials) == ledger.trials
            assert (len(view.trials), view.running) == (told, 1)
            assert (view.budget, view.dense) == (proposals.budget, proposals.dense)
            ledger.tell(candidate, OUTCOMES[1], {})
    view = open_view(tmp_path)
    assert (len(view.trials), view.running) == (4, 0)
    assert [session.budget for session in view.sessions] == [proposals.budget]


def test_a_view_does_not_take_the_lock_nor_reclaim(tmp_path: Path) -> None:
    stored_spec(tmp_path)
    ledger = open_ledger(tmp_path)
    ledger.ask(make_proposals(), 0)
    ledger.close(gives_back=False)
    assert open_view(tmp_path).running == 1
    assert open_view(tmp_path).running == 1
    open_ledger(tmp_path).close()
    assert open_view(tmp_path).running == 0


def test_a_view_of_no_study_says_so_and_makes_none(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no stored study") as caught:
        open_view(tmp_path / "nothing")
    assert "autoprune search" in str(caught.value)
    stored_spec(tmp_path)
    with pytest.raises(StudyError, match="no stored study"):
        open_view(tmp_path)
    assert not (tmp_path / "study.db").exists()
    assert not (tmp_path / "nothing").exists()


def test_a_view_of_another_storage_without_the_study_says_so(tmp_path: Path) -> None:
    stored_spec(tmp_path)
    with Ledger(sqlite_url(tmp_path / "other.db"), "another", OBJECTIVES, tmp_path / "lock"):
        pass
    with pytest.raises(StudyError, match="no study named 'fake'"):
        open_view(tmp_path, sqlite_url(tmp_path / "other.db"))


def test_a_view_of_a_corrupt_database_is_a_study_error(tmp_path: Path) -> None:
    stored_spec(tmp_path)
    (tmp_path / "study.db").write_bytes(b"garbage" * 1000)
    with pytest.raises(StudyError, match=r"study\.db"):
        open_view(tmp_path)


def test_what_is_stored_is_json_that_others_can_read(tmp_path: Path) -> None:
    proposals = make_proposals()
    with open_ledger(tmp_path) as ledger:
        candidate = ledger.ask(proposals, 0)
        ledger.tell(candidate, fake_outcome(proposals, candidate), {"score": 0.1})
    attributes = raw_trials(tmp_path)[0].user_attrs
    stored = json.loads(attributes["candidate"])
    assert (stored["number"], stored["seed"]) == (0, candidate.seed)
    assert stored["policy"] == json.loads(candidate.policy.to_json())
    assert json.loads(attributes["outcome"])["outcome"]["kind"] == "completed"
