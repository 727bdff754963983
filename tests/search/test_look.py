"""Looks at networks of a real study: what was not cut has lost nothing, by either look."""

from __future__ import annotations

import pytest
from tiny import write_task
from tiny_study import tiny_spec

from autoprune.search.screening.look import Looker
from autoprune.search.screening.prepare_screening import looker_of
from autoprune.search.setup.prepare_study import prepare_study
from autoprune.search.setup.prepared_study import PreparedStudy
from autoprune.study.folder import StudyFolder

pytestmark = pytest.mark.usefixtures("process_is_left_as_it_was")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedStudy:
    folder = tmp_path_factory.mktemp("tiny")
    study = StudyFolder(folder / "study")
    study.create()
    spec = tiny_spec(write_task(folder))
    spec = spec.model_copy(update={"finetune": spec.finetune.model_copy(update={"compensation_images": 64})})
    return prepare_study(spec, study, lambda message: None)


@pytest.fixture(scope="module")
def looker(prepared: PreparedStudy) -> Looker:
    return looker_of(prepared)


def test_what_was_not_cut_has_lost_nothing(prepared: PreparedStudy, looker: Looker) -> None:
    assert looker.closed_form(prepared.space.full) == pytest.approx(0, abs=1e-6)
    rise, seen = looker.compensated(prepared.space.full)
    assert rise == pytest.approx(0, abs=1e-6), "the reference is the dense network as it is, not a recalibrated one"
    assert seen is not None
    assert seen["accuracy"] == prepared.dense["accuracy"]
    assert looker.probe.distance is not None
    assert looker.probe.distance(prepared.start) > 1e-5, "as that of first looks is"


def test_what_was_cut_has_lost_something(prepared: PreparedStudy, looker: Looker) -> None:
    smallest = prepared.space.smallest
    assert looker.closed_form(smallest) > 1e-4
    assert looker.compensated(smallest)[0] > 1e-4
