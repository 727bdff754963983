"""What a study stores about itself: written and read by one type, also where an earlier version stored less."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from stored_fakes import good, store

from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.errors import StudyError
from autoprune.study.dense_facts import DenseFacts, read_dense_facts
from autoprune.study.folder import StudyFolder
from autoprune.study.regularisation_facts import RegularisationFacts
from autoprune.study.study_facts import DataFacts, FrozenFacts, GroupFacts, SessionFacts, StudyFacts
from autoprune.study.view import open_view

DENSE = Measurement({"accuracy": 0.9, "mflops": 40.0}, {"accuracy": 0.01}, ("attention in block.0",))
LEARNT = RegularisationFacts(
    "bn_l1", 1e-4, 2.0, DENSE, DENSE, 24, (0.0, 0.5, 1.0), (0.1, 0.5, 1.0), (0.0, 0.2, 1.0), 0.25
)
SESSION = SessionFacts(
    budget=Budget.parse({"mflops": 20}),
    sampler="tpe",
    trials=30,
    runtime={"device": "cpu", "threads": 2},
    latency={"runtime": "torch", "batch": 1},
    versions={"python": "3.12.1"},
)
FACTS = StudyFacts(
    dense=DENSE,
    dense_paired="",
    regularisation=LEARNT,
    groups={"conv1": GroupFacts(16, residual=True)},
    frozen={"fc": FrozenFacts(10, "its channels are the network's output")},
    data=DataFacts("digits", 10, {"train": 1078, "val": 540}, "8×8 images", "CC0"),
)


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def test_facts_are_read_as_they_were_written() -> None:
    assert StudyFacts.from_json(through_json(FACTS.to_json())) == FACTS
    assert SessionFacts.from_json(through_json(SESSION.to_json())) == SESSION


def test_sessions_are_read_in_order_with_the_fingerprint() -> None:
    stored = {
        f"session:{number}": {**SESSION.to_json(), "trials": number} for number in (10, 2, *range(2), *range(3, 10))
    }
    found = StudyFacts.from_json({**through_json(stored), "fingerprint": {"seed": 0}})
    assert [session.trials for session in found.sessions] == list(range(11))
    assert found.budget == SESSION.budget
    assert found.fingerprint == {"seed": 0}
    assert StudyFacts().budget == Budget()


def test_what_earlier_versions_did_not_store_stays_empty() -> None:
    assert StudyFacts.from_json({}) == StudyFacts()
    old = StudyFacts.from_json({"dense": DENSE.to_json(), "session:0": {"budget": {}}, "data": {"name": "digits"}})
    assert (old.dense, old.regularisation, old.data.num_classes) == (DENSE, None, None)
    assert old.sessions == (SessionFacts(),)


def test_a_study_whose_facts_are_damaged_says_so(tmp_path: Path) -> None:
    broken = {"dense": {"values": {"accuracy": float("nan")}, "stderr": {}, "uncounted": []}}
    folder = store(tmp_path / "s", [], facts=broken)
    with pytest.raises(StudyError, match=r"about the study as a whole is damaged .* restore study\.db from a copy"):
        open_view(folder.path)


@pytest.mark.parametrize(
    "session",
    [
        {"runtime": {"device_name": ["Abacus"]}},
        {"runtime": [1]},
        {"runtime": {"threads": "many"}},
        {"latency": "torch"},
    ],
)
def test_a_session_that_is_not_what_was_written_is_a_study_error(tmp_path: Path, session: dict[str, Any]) -> None:
    folder = store(tmp_path / "s", [good()], facts={"dense": DENSE.to_json(), "session:0": session})
    with pytest.raises(StudyError, match=r"about the study as a whole is damaged .* restore study\.db from a copy"):
        open_view(folder.path)


@pytest.mark.parametrize("metric", ["accuracy", "mflops", "latency_ms"])
def test_a_trial_or_a_dense_network_without_a_number_that_all_have_is_a_study_error(
    tmp_path: Path, metric: str
) -> None:
    def without(measured: Measurement) -> Measurement:
        return Measurement({name: value for name, value in measured.values.items() if name != metric})

    spoilt = store(tmp_path / "dense", [good()], facts={"dense": without(DENSE).to_json()})
    with pytest.raises(StudyError, match=f"dense network is damaged: it lacks .*{metric}"):
        open_view(spoilt.path)
    folder = store(tmp_path / "trial", [good(), good(0.9)])
    with closing(sqlite3.connect(folder.database)) as database, database:
        ((record, stored),) = database.execute(
            "select rowid, value_json from trial_user_attributes where key = 'outcome' order by rowid limit 1"
        ).fetchall()
        told = json.loads(json.loads(stored))
        del told["outcome"]["measurement"]["values"][metric]
        changed = json.dumps(json.dumps(told))
        database.execute("update trial_user_attributes set value_json = ? where rowid = ?", (changed, record))
    with pytest.raises(StudyError, match=f"trial 0 completed without {metric}"):
        open_view(folder.path)


def test_dense_facts_are_read_as_they_were_written_and_by_what_old_files_hold(tmp_path: Path) -> None:
    facts = DenseFacts(DENSE, "abc", {"device": "cpu", "layout": "contiguous"}, LEARNT, "", "onnxruntime")
    folder = StudyFolder(tmp_path)
    folder.dense_facts.write_text(json.dumps(facts.to_json()), encoding="utf-8")
    assert read_dense_facts(folder) == facts
    first = {name: facts.to_json()[name] for name in ("measurement", "data", "runtime")}
    folder.dense_facts.write_text(json.dumps(first), encoding="utf-8")
    assert read_dense_facts(folder) == DenseFacts(DENSE, "abc", facts.runtime)
    assert read_dense_facts(folder).latency_runtime == "torch"


@pytest.mark.parametrize("text", ["", "[]", '{"measurement": {}}', '{"measurement": {"values": '])
def test_a_damaged_file_of_the_dense_network_is_named(tmp_path: Path, text: str) -> None:
    folder = StudyFolder(tmp_path)
    folder.dense_facts.write_text(text, encoding="utf-8")
    with pytest.raises(StudyError, match=r"dense\.json' is damaged"):
        read_dense_facts(folder)
