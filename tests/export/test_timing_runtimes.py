"""Every latency runtime keeps one contract; ``auto`` is decided once per study; older studies were timed in PyTorch."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import write_task
from tiny_study import candidate, tiny_spec
from torch import Tensor, nn

import autoprune.search.setup.choose_latency_engine
from autoprune.core.trial import Completed
from autoprune.cost.latency import Timer, time_alone
from autoprune.cost.timing_engines import TORCH_ENGINES, Engine, eager, event_seconds, undisturbed_seconds
from autoprune.cost.timing_plan import TimingPlan
from autoprune.errors import AutopruneError, ExportError, ModelError, UsageError
from autoprune.export import timing_runtimes as latency_runtimes
from autoprune.export.onnx import missing_packages
from autoprune.export.onnx_derivation import OnnxConverter
from autoprune.export.openvino import is_missing
from autoprune.export.timing_runtimes import WORDS, check_engine, decide_engine, engine_of
from autoprune.search.session import run_search
from autoprune.search.setup.build_evaluator import build_evaluator
from autoprune.search.setup.from_spec import resolve
from autoprune.search.setup.prepare_study import prepare_study
from autoprune.study.dense_facts import read_dense_facts
from autoprune.study.folder import StudyFolder
from autoprune.study.spec import fingerprint
from autoprune.study.spec_run import LatencySpec
from autoprune.study.spec_toml import read_resolved
from autoprune.testing import ExampleNetwork

needs_onnx = pytest.mark.skipif(bool(missing_packages()), reason=f"not installed: {', '.join(missing_packages())}")
needs_openvino = pytest.mark.skipif(is_missing(), reason="OpenVINO is not installed (the extra openvino)")
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile needs a C++ compiler"
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
RUNTIMES = [
    "torch",
    pytest.param("onnxruntime", marks=needs_onnx),
    pytest.param("openvino", marks=[needs_onnx, needs_openvino]),
    pytest.param("compile", marks=needs_compiler),
    pytest.param("cuda", marks=needs_gpu),
]


class FakeClock:
    """Go on by a second whenever it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


class Branches(nn.Module):
    """Take a way that depends on the input, which neither exporter nor compiler can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) if float(x.sum()) > -1e9 else self.fc(-x)


# --- one contract


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_answers_as_the_network_lets_it_go_and_times_it_against_itself_as_equal(name: str) -> None:
    device = "cuda" if name == "cuda" else "cpu"
    network, engine = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval().to(device), engine_of(name)
    images = torch.rand(2, 4, generator=torch.Generator().manual_seed(1)).to(device)  # small: compiling takes seconds
    assert engine.name == name
    with torch.inference_mode():
        call = engine.prepare(network, images, 1)
        answers, expected = call(), network(images)
    torch.testing.assert_close(answers, expected, rtol=1e-4, atol=1e-5)
    assert engine.seconds(call, 2) > 0
    assert not network.training
    still = weakref.ref(network)
    if name != "cuda":
        timed = Engine(name, engine.prepare, partial(undisturbed_seconds, wall=FakeClock(), processor=FakeClock()))
        assert Timer(network, images, TimingPlan(blocks=5, calls=1), timed).compare().ratio == 1
        assert time_alone(network, images, TimingPlan(blocks=5, calls=2), timed) == (500.0, 0.0)
        del timed
    del network, call
    gc.collect()
    assert still() is None, "a search would keep every network it timed"


@pytest.mark.parametrize("name", RUNTIMES[1:4])
def test_a_network_that_a_runtime_does_not_take_is_told_with_the_way_out(name: str) -> None:
    with pytest.raises((ExportError, ModelError), match="runtime torch") as found, torch.inference_mode():
        engine_of(name).prepare(Branches().eval(), torch.rand(1, 4), 1)
    assert len(str(found.value)) < 600


def test_every_network_is_compiled_for_itself_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch gives up compiling one function after eight variants; what it then runs is not compiled."""
    compiled = list[int]()

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(len(compiled))
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    for width in range(1, 12):
        network = nn.Sequential(nn.Linear(4, width), nn.ReLU()).eval()
        with torch.inference_mode():
            call = engine_of("compile").prepare(network, torch.rand(1, 4), 1)
            call()
    assert len(compiled) == 11


class FakeEvent:
    """Stand for a mark on the GPU's time line."""

    log: list[str] = []  # noqa: RUF012

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.log.append("record")

    def synchronize(self) -> None:
        self.log.append("wait")

    def elapsed_time(self, end: FakeEvent) -> float:
        return 12.0


def test_a_gpu_is_timed_between_two_events_that_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    log = list[str]()
    monkeypatch.setattr(FakeEvent, "log", log)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: log.append("idle"))

    def call() -> Tensor:
        log.append("call")
        return torch.zeros(1)

    assert event_seconds(call, 3) == pytest.approx(0.004)
    assert log == ["idle", "record", "call", "call", "call", "record", "wait"]
    assert TORCH_ENGINES["cuda"].seconds is event_seconds


# --- what auto stands for


@pytest.fixture
def parts() -> tuple[nn.Module, nn.Module, Tensor]:
    return ExampleNetwork().eval(), ExampleNetwork().eval(), torch.zeros(1, 1, 8, 8)


@pytest.mark.parametrize(("device", "name"), [("cuda", "cuda"), ("mps", "torch")])
def test_auto_on_another_device(device: str, name: str, parts: tuple[nn.Module, nn.Module, Tensor]) -> None:
    found, engine, why = decide_engine(TimingPlan(), device, *parts)
    assert (found, engine.name) == (name, name)
    assert f"the device is {device}" in why


def test_auto_is_pytorch_where_packages_are_missing(
    parts: tuple[nn.Module, nn.Module, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency_runtimes, "missing_packages", lambda: ("onnxruntime",))
    name, _, why = decide_engine(TimingPlan(), "cpu", *parts)
    assert name == "torch"
    assert "not installed: onnxruntime" in why


@needs_onnx
def test_auto_is_pytorch_for_a_network_that_cannot_be_exported_and_says_why() -> None:
    name, _, why = decide_engine(TimingPlan(), "cpu", Branches().eval(), Branches().eval(), torch.rand(1, 4))
    assert name == "torch"
    assert "cannot be converted to ONNX" in why


@needs_onnx
def test_auto_is_pytorch_where_every_pruned_network_would_be_exported_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    converted = list[nn.Module]()

    def export(self: OnnxConverter, network: nn.Module, threads: int) -> tuple[bytes, None]:
        converted.append(network)
        self.exported += 1
        return b"", None

    monkeypatch.setattr(OnnxConverter, "_export", export)
    dense, pruned = nn.Linear(4, 3), nn.Linear(4, 3)
    name, _, why = decide_engine(TimingPlan(), "cpu", dense, pruned, torch.rand(1, 4))
    assert converted == [dense, pruned]
    assert name == "torch"
    assert "exported anew" in why


def test_what_is_not_there_is_refused_before_anything_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"latency.runtime is cuda, and the device is cpu"):
        check_engine(TimingPlan(runtime="cuda"), "cpu")
    monkeypatch.setattr(latency_runtimes, "missing_packages", lambda: ("onnxscript",))
    with pytest.raises(UsageError, match=r"not installed: .*onnxscript; pip install onnxscript"):
        check_engine(TimingPlan(runtime="onnxruntime"), "cpu")
    for name in ("auto", "torch", "compile"):
        check_engine(TimingPlan(runtime=name), "cpu")


def test_every_runtime_has_words() -> None:
    known = LatencySpec.model_json_schema()["properties"]["runtime"]["enum"]
    assert set(known) == {"auto", *WORDS}


# --- in a study


class Silent:
    """Watch a run, and keep its messages."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.say = self.warn = self.said.append

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


def study(root: Path) -> StudyFolder:
    return StudyFolder(root / "study")


def small(root: Path, runtime: str, trials: int = 1, **changes: Any) -> Any:
    latency = {"runtime": runtime, "blocks": 5, "calls": 1}
    wish = {"latency": latency, "objectives": ("accuracy", "mflops"), "sampler": "random", "trials": trials}
    wish |= {"stopping": {"enabled": False}, "finetune": {"epochs": 0.0, "recalibration_images": 48}}
    return tiny_spec(write_task(root / "code"), **(wish | changes))


@needs_onnx
def test_a_study_left_to_auto_remembers_what_it_was_timed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Silent()
    run_search(small(tmp_path, "auto"), study(tmp_path), watch)  # type: ignore[arg-type]
    assert sum("latency is timed in ONNX Runtime" in line for line in watch.said) == 1
    assert read_resolved(study(tmp_path).resolved).latency.runtime == "onnxruntime"
    assert read_dense_facts(study(tmp_path)).latency_runtime == "onnxruntime"
    asked = list[str]()
    monkeypatch.setattr(
        autoprune.search.setup.choose_latency_engine,
        "engine_of",
        lambda name, kept: asked.append(name) or TORCH_ENGINES["torch"],
    )
    assert run_search(small(tmp_path, "auto", trials=2), study(tmp_path), watch).added == 1  # type: ignore[arg-type]
    assert asked == ["onnxruntime"]
    with pytest.raises(UsageError, match=r"latency.runtime: stored 'onnxruntime', given 'torch'"):
        run_search(small(tmp_path, "torch", trials=3), study(tmp_path), watch)  # type: ignore[arg-type]


@needs_onnx
def test_trials_are_timed_in_the_runtime_and_the_dense_network_is_exported_once(tmp_path: Path) -> None:
    folder = study(tmp_path)
    folder.create()
    prepared = prepare_study(resolve(small(tmp_path, "onnxruntime")), folder, lambda message: None)
    evaluator = build_evaluator(prepared)
    assert evaluator.meter.timer is prepared.timer
    for sparsity in (0.2, 0.6):
        outcome = evaluator(candidate(prepared, sparsity)).outcome
        assert isinstance(outcome, Completed)
        assert outcome.measurement["latency_ms"] > 0
    (converter,) = converters(prepared.timer.engine)
    assert (converter.exported, converter.derived) == (1, 3)  # before training; then the trained one and two trials


def converters(engine: Engine) -> list[Any]:
    """Return what the engine for ONNX Runtime has in its closure."""
    found = [cell.cell_contents for cell in engine.prepare.__closure__ or ()]  # type: ignore[attr-defined]
    return [converter for held in found if isinstance(held, list) for converter in held]


@needs_onnx
def test_a_runtime_that_does_not_take_the_network_is_refused_before_that_is_trained(tmp_path: Path) -> None:
    spec = small(tmp_path, "onnxruntime")
    code = tmp_path / "code" / "tiny.py"
    text = code.read_text(encoding="utf-8")
    code.write_text(text.replace("return self.fc(x.mean((2, 3)))", BRANCH), encoding="utf-8")
    with pytest.raises(ExportError, match="cannot be converted to ONNX"):
        run_search(spec, study(tmp_path), Silent())  # type: ignore[arg-type]
    assert not study(tmp_path).dense_weights.exists()


BRANCH = """x = x.mean((2, 3))
        return self.fc(x) if float(x.sum()) > -1e9 else self.fc(-x)"""


def test_a_study_from_before_there_was_a_choice_goes_on_in_pytorch(tmp_path: Path) -> None:
    folder, watch = study(tmp_path), Silent()
    run_search(small(tmp_path, "torch"), folder, watch)  # type: ignore[arg-type]
    folder.resolved.write_text(without_line(folder.resolved.read_text(), 'runtime = "torch"'))
    facts = json.loads(folder.dense_facts.read_text())
    del facts["latency_runtime"]
    folder.dense_facts.write_text(json.dumps(facts))
    assert read_resolved(folder.resolved).latency.runtime == "torch"
    assert run_search(small(tmp_path, "auto", trials=2), folder, watch).added == 1  # type: ignore[arg-type]
    assert not any("latency is timed" in line for line in watch.said)
    assert read_resolved(folder.resolved).latency.runtime == "torch"
    folder.resolved.write_text(without_line(folder.resolved.read_text(), 'runtime = "torch"'))
    with pytest.raises(UsageError, match=r"latency.runtime: stored 'torch', given 'compile'"):
        run_search(small(tmp_path, "compile", trials=3), folder, watch)  # type: ignore[arg-type]
    assert fingerprint(read_resolved(folder.resolved))["latency.runtime"] == "torch"


def without_line(text: str, line: str) -> str:
    assert text.count(f"\n{line}\n") == 1
    return text.replace(f"\n{line}\n", "\n")


def test_a_failure_in_the_runtime_is_a_failed_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = study(tmp_path)
    folder.create()
    prepared = prepare_study(resolve(small(tmp_path, "torch")), folder, lambda message: None)

    def prepare(network: nn.Module, example: Tensor, threads: int) -> Callable[[], Tensor]:
        if network is not prepared.network:
            raise ExportError("the network cannot be converted")
        return eager(network, example, threads)

    monkeypatch.setattr(prepared.timer, "engine", Engine("torch", prepare))
    outcome = build_evaluator(prepared)(candidate(prepared)).outcome
    assert getattr(outcome, "error", None) == "ExportError"
    assert issubclass(ExportError, AutopruneError)
