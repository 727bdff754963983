"""Sizes in int8: the rule by hand, and against the files that are written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from int8_toys import Net, examples, onnx_of
from tiny import write_task
from tiny_study import candidate, tiny_spec
from torch import nn

from autoprune.core.budget import Budget
from autoprune.core.channel_groups import Block
from autoprune.core.counts import ChannelCounts
from autoprune.core.int8_overhead import Int8Overhead
from autoprune.core.policy import PruningPolicy
from autoprune.core.trial import Completed, OverBudget
from autoprune.cost.cost_model import CostModel
from autoprune.cost.int8_size import int8_bytes, total_bytes
from autoprune.export.examples import examples_of
from autoprune.export.int8_calibration import calibrated
from autoprune.export.int8_quantise import quantised_here
from autoprune.export.int8_timing import int8_stand_in
from autoprune.export.onnx import OnnxSession
from autoprune.export.timing_runtimes import engine_of
from autoprune.search.setup.build_costs import cost_model, timing_batch
from autoprune.search.setup.build_evaluator import build_evaluator, build_maker
from autoprune.search.setup.describe_study import study_facts
from autoprune.search.setup.from_spec import finetune_settings, resolve
from autoprune.search.setup.int8_sizes import int8_overhead
from autoprune.search.setup.prepare_study import prepare_study
from autoprune.search.setup.prepared_study import PreparedStudy
from autoprune.study.dense_facts import read_dense_facts
from autoprune.study.folder import StudyFolder

pytestmark = pytest.mark.usefixtures("process_is_left_as_it_was")


def test_each_kind_of_tensor_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4))
    assert total_bytes(network, int8_bytes(network)) == (72 + 8 * 5) + 8 * 12 + (32 + 4 * 5) + 4 * 12
    lstm, words = nn.LSTM(3, 5), nn.Embedding(10, 3)
    assert total_bytes(lstm, int8_bytes(lstm)) == 4 * sum(p.numel() for p in lstm.parameters())
    assert total_bytes(words, int8_bytes(words)) == 30


def test_what_is_beside_tensors_goes_with_the_blocks() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Linear(2, 2))
    layer, beside = 4 + 2 * 5 + 2 * 12, Int8Overhead(1000, 300)
    model = CostModel(network, {}, {}, torch.zeros(1, 2), blocks=[Block("1")], int8=beside)
    assert model.count(ChannelCounts())[2] == 4 * layer + 1000
    assert model.count(ChannelCounts().dropping(frozenset({"1"})))[2] == 2 * layer + 700
    assert Int8Overhead.from_json(beside.to_json()) == beside


@pytest.mark.parametrize("width", [4, 8, 24])
def test_a_calibrated_file_has_the_size_that_follows_from_another_of_the_architecture(width: int) -> None:
    def beside(net: Net, content: bytes) -> int:
        return len(content) - total_bytes(net, int8_bytes(net))

    net, other = Net(width), Net(12)
    session = OnnxSession(given := onnx_of(net))
    feeds = [one.run(session.feed) for one in examples().calibration(32, 64)]  # type: ignore[misc]
    written = quantised_here(calibrated(given, feeds), reduce_range=False)
    expected = total_bytes(net, int8_bytes(net)) + beside(other, int8_stand_in(onnx_of(other)))
    assert abs(len(written) - expected) < 0.01 * expected


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    folder = StudyFolder(tmp_path_factory.mktemp("int8-size") / "study")
    folder.create()
    return folder


def wide_task(folder: Path) -> Path:
    """Return the tiny task with a network that has enough weights to be smaller in int8."""
    file = write_task(folder)
    network, function, rest = file.read_text(encoding="utf-8").partition("def net(")
    for width, wider in ((", 8,", ", 32,"), ("(8,", "(32,"), ("(8)", "(32)"), ("16", "64")):
        network = network.replace(width, wider)
    file.write_text(network + function + rest, encoding="utf-8")
    return file


def prepared(folder: StudyFolder) -> PreparedStudy:
    latency = {"runtime": "onnxruntime", "format": "int8", "blocks": 5, "calls": 1}
    spec = resolve(tiny_spec(wide_task(folder.path.parent / "code"), latency=latency))
    return prepare_study(spec, folder, lambda message: None)


@pytest.fixture(scope="module")
def study(folder: StudyFolder) -> PreparedStudy:
    return prepared(folder)


def file_of(study: PreparedStudy, policy: PruningPolicy) -> bytes:
    """Return a network's file in int8, calibrated on training examples as what is shipped."""
    network = study.pruner.prune(policy).eval()
    batch = timing_batch(study.context, study.network)
    content = engine_of("onnxruntime").file(network, batch, 1)  # type: ignore[misc]
    calibration = examples_of(study.task, study.network).calibration
    feeds = [one.run(OnnxSession(content).feed) for one in calibration(32, 96)]  # type: ignore[misc,union-attr]
    return quantised_here(calibrated(content, feeds), reduce_range=False)


def test_a_budget_in_int8_admits_what_the_same_number_in_float32_refuses(study: PreparedStudy) -> None:
    assert (study.size_format, study_facts(study).size_format) == ("int8", "int8")
    wanted = candidate(study, 0.5)
    counts = study.space.counts(wanted.policy)
    in_float = cost_model(study.network, study.space, study.context.example(study.network))
    sizes = [one.measure(counts)["size_mb"] for one in (study.cost, in_float)]
    written = len(file_of(study, wanted.policy)) / 1e6
    assert written == pytest.approx(sizes[0], rel=0.02)
    assert sizes[0] < sizes[1]
    limited = replace(wanted, budget=Budget.parse({"size_mb": sum(sizes) / 2}))
    maker = build_maker(study, finetune_settings(study.spec))
    admitted, refused = (
        replace(build_evaluator(study), maker=replace(maker, cost=cost))(limited).outcome
        for cost in (study.cost, in_float)
    )
    assert isinstance(admitted, Completed)
    assert isinstance(refused, OverBudget)


def test_what_was_found_once_is_read_again(study: PreparedStudy, folder: StudyFolder) -> None:
    found = read_dense_facts(folder)
    assert found.int8_overhead == study.cost.int8
    assert prepared(folder).cost.int8 == study.cost.int8
    assert found.measurement["size_mb"] == study.cost.measure(ChannelCounts())["size_mb"]


def test_a_study_that_began_with_sizes_in_float32_keeps_them(study: PreparedStudy, tmp_path: Path) -> None:
    earlier = StudyFolder(tmp_path)
    facts: Any = read_dense_facts(study.folder).to_json()
    assert facts.pop("int8_overhead")["total"] > 0
    earlier.dense_facts.write_text(json.dumps(facts))
    context = replace(study.context, folder=earlier)
    engine: Any = type("Engine", (), {"file": lambda *_: b""})
    assert int8_overhead(context, study.pruner, engine) is None
