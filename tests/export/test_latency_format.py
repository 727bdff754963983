"""Timing in int8: the file that is timed is made of what is shipped, and ``auto`` is decided once, by measuring."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from int8_toys import Net, examples, onnx_of
from tiny import write_task
from tiny_study import candidate, tiny_spec

import autoprune.search.setup.choose_latency_format as choosing
from autoprune.core.export_formats import Int8Limit, Wanted
from autoprune.core.trial import Completed
from autoprune.cost.timing_engines import Engine
from autoprune.cost.timing_plan import TimingPlan
from autoprune.errors import UsageError
from autoprune.export.export_result import TimingResult
from autoprune.export.int8_calibration import calibrated
from autoprune.export.int8_quantise import quantised_here
from autoprune.export.int8_score import Int8Score
from autoprune.export.int8_timing import int8_stand_in
from autoprune.export.onnx import OnnxSession
from autoprune.export.timing_runtimes import check_engine, engine_of, int8_engine
from autoprune.pick.choose_formats import choose_formats
from autoprune.search.setup.build_evaluator import build_evaluator
from autoprune.search.setup.choose_latency_format import with_latency_format
from autoprune.search.setup.from_spec import resolve
from autoprune.search.setup.prepare_study import prepare_study
from autoprune.search.setup.prepared_study import PreparedStudy
from autoprune.study.dense_facts import read_dense_facts
from autoprune.study.folder import StudyFolder

pytestmark = pytest.mark.usefixtures("process_is_left_as_it_was")


def operations(content: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_model_from_string(content).graph.node)


def test_what_is_timed_is_made_of_the_operations_that_are_shipped() -> None:
    given = onnx_of(Net(8))
    session = OnnxSession(given)
    feeds = [one.run(session.feed) for one in examples().calibration(32, 64)]  # type: ignore[misc]
    shipped = quantised_here(calibrated(given, feeds), reduce_range=False)
    stand_in = int8_stand_in(given)
    assert operations(stand_in) == operations(shipped)
    assert operations(stand_in)["QuantizeLinear"] > 3
    assert OnnxSession(stand_in)(torch.zeros(2, 1, 8, 8)).shape == (2, 3)  # type: ignore[union-attr]


def test_int8_is_refused_where_nothing_runs_it() -> None:
    with pytest.raises(UsageError, match=r"latency.format is int8, and latency.runtime torch; only onnxruntime"):
        int8_engine(engine_of("torch"))
    with pytest.raises(UsageError, match=r"latency.format is int8, and latency.runtime compile"):
        check_engine(TimingPlan(runtime="compile", format="int8"), "cpu")
    for name in ("auto", "onnxruntime"):
        check_engine(TimingPlan(runtime=name, format="int8"), "cpu")


def test_a_plan_in_float32_is_stored_as_it_was_before_there_were_formats() -> None:
    assert "format" not in TimingPlan().to_json()
    assert TimingPlan(**TimingPlan(format="int8").to_json()) == TimingPlan(format="int8")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    folder = StudyFolder(tmp_path_factory.mktemp("int8") / "study")
    folder.create()
    return folder


@pytest.fixture(scope="module")
def study(folder: StudyFolder) -> PreparedStudy:
    return prepare_study(spec_in(folder, "int8"), folder, lambda message: None)


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Return ONNX Runtime, which exports the network once for all tests."""
    return engine_of("onnxruntime")


def spec_in(folder: StudyFolder, form: str) -> Any:
    latency = {"runtime": "onnxruntime", "format": form, "blocks": 5, "calls": 1}
    return resolve(tiny_spec(write_task(folder.path.parent / "code"), latency=latency))


def test_trials_are_timed_in_int8_and_the_dense_network_in_float32_too(study: PreparedStudy) -> None:
    facts = read_dense_facts(study.folder)
    assert (facts.latency_runtime, facts.latency_format) == ("onnxruntime", "int8")
    assert facts.fp32_latency_ms is not None
    assert facts.fp32_latency_ms > 0
    outcome = build_evaluator(study)(candidate(study)).outcome
    assert isinstance(outcome, Completed)
    assert outcome.measurement["latency_ms"] > 0
    assert study.timer.engine.format == "int8"


def test_auto_goes_on_as_the_study_began(study: PreparedStudy, engine: Engine) -> None:
    again = replace(study.context, spec=spec_in(study.folder, "auto"))
    decided, timing = with_latency_format(again, study.network, engine)
    assert (decided.spec.latency.format, timing.format) == ("int8", "int8")


GOOD, WORSE = Int8Score(0.9, 0.0, 0.01, 48), Int8Score(0.8, -0.1, 0.01, 48)
BROKEN = Int8Score(float("nan"), -float("inf"), float("nan"), 48, "the same for every example")


@pytest.mark.parametrize(
    ("ratio", "score", "form", "said"),
    [
        (0.4, GOOD, "int8", "the dense network's accuracy is 90.00 %"),
        (0.4, WORSE, "fp32", "the dense network's accuracy is 80.00 %"),
        (0.4, BROKEN, "fp32", "the dense network's answers are the same for every example"),
        (0.99, GOOD, "fp32", "int8 is not faster on this machine, × 0.990 ± 0.010"),
    ],
)
def test_auto_is_int8_where_that_is_faster_and_no_worse(
    study: PreparedStudy,
    engine: Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ratio: float,
    score: Int8Score,
    form: str,
    said: str,
) -> None:
    reference = SimpleNamespace(value=0.9, examples=examples())
    monkeypatch.setattr(choosing, "timed", lambda *_: TimingResult(1, 1, ratio, 0.01, ratio, 1.0))
    monkeypatch.setattr(choosing, "int8_score", lambda *_: (score, reference))
    heard: list[str] = []
    fresh = replace(
        study.context, folder=StudyFolder(tmp_path), spec=spec_in(study.folder, "auto"), notify=heard.append
    )
    decided, timing = with_latency_format(fresh, study.network, engine)
    assert (decided.spec.latency.format, timing.format) == (form, form)
    assert said in heard[0]
    assert len(heard) == 1


def test_auto_is_float32_where_nothing_runs_int8(study: PreparedStudy, tmp_path: Path) -> None:
    heard: list[str] = []
    fresh = replace(
        study.context, folder=StudyFolder(tmp_path), spec=spec_in(study.folder, "auto"), notify=heard.append
    )
    decided, timing = with_latency_format(fresh, study.network, engine_of("torch"))
    assert (decided.spec.latency.format, timing.format) == ("fp32", "fp32")
    assert "only onnxruntime runs int8" in heard[0]


def test_what_was_searched_in_int8_is_shipped_in_int8(study: PreparedStudy) -> None:
    pick = study.spec.pick.model_copy(update={"export": "auto"})
    view: Any = SimpleNamespace(spec=study.spec.model_copy(update={"pick": pick}))
    assert choose_formats(view) == Wanted(("onnx", "onnx-int8"), is_explicit=False, int8=Int8Limit(0.01))
    assert choose_formats(view, "onnx").formats == ("onnx",)
    timed = study.spec.latency.model_copy(update={"format": "fp32"})
    view.spec = view.spec.model_copy(update={"latency": timed})
    assert choose_formats(view).formats == ("onnx",)
    assert choose_formats(view, int8=True, int8_max_drop=0.02).int8 == Int8Limit(0.02)
