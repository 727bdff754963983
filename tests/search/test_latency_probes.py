"""Networks are timed once per study, spread over the space, and read again."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import write_task
from tiny_study import tiny_spec
from torch import nn

from autoprune.core.budget import Budget
from autoprune.core.counts import ChannelCounts
from autoprune.core.space import SearchSpace
from autoprune.cost.cost_model import CostModel, measure_network
from autoprune.cost.latency import LatencyComparison
from autoprune.cost.timing_plan import TimingPlan
from autoprune.models.cifar_resnet import resnet20
from autoprune.pruning.find_blocks import find_blocks
from autoprune.pruning.groups import find_groups
from autoprune.pruning.surgery import Pruner
from autoprune.search.proposals.latency_model import LatencyProbes
from autoprune.search.setup.build_costs import cost_model
from autoprune.search.setup.build_proposals import build_proposals
from autoprune.search.setup.context import StudyContext
from autoprune.search.setup.latency_probes import latency_probes, needs_probes, spread
from autoprune.search.setup.prepare_study import prepare_study
from autoprune.study.folder import StudyFolder
from autoprune.study.spec import StudySpec
from autoprune.training.device.resolve_runtime import resolve_runtime

DENSE_MS = 8.0


@cache
def parts() -> tuple[Pruner, CostModel]:
    network, example = resnet20().eval(), torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    groups = find_groups(network, example).cuttable
    space = SearchSpace(groups, {g.name: ("any",) for g in groups}, blocks=find_blocks(network, example, groups))
    scores = {"any": {group.name: torch.arange(group.num_channels) / 1.0 for group in groups}}
    return Pruner(network, space, scores), cost_model(network, space, example)


class FakeTimer:
    """Stand for the clock: a network takes a fixed time and more for its MACs; remember how it was asked."""

    def __init__(self, **latency: Any) -> None:
        self.plan = TimingPlan(**{"runtime": "torch", **latency})
        self.asked: list[dict[str, Any]] = []

    def compare(self, pruned: nn.Module, **options: int) -> LatencyComparison:
        assert not pruned.training
        self.asked.append(options)
        example, dense = torch.zeros(1, 3, 32, 32), parts()[0].network
        ratio = 0.2 + 0.8 * (measure_network(pruned, example)["mflops"] / measure_network(dense, example)["mflops"])
        return LatencyComparison(ratio, 0.01, 2 * DENSE_MS, ratio * 2 * DENSE_MS)  # the machine is half as fast now


def timed(folder: Path, timer: FakeTimer, said: list[str] | None = None) -> LatencyProbes:
    pruner, cost = parts()
    runtime = resolve_runtime("cpu", "fp32", "contiguous", 1)
    notify = (said if said is not None else []).append
    context = StudyContext(StudySpec(), None, runtime, StudyFolder(folder), notify)  # type: ignore[arg-type]
    return latency_probes(context, pruner, cost, timer, DENSE_MS)  # type: ignore[arg-type]


def test_probes_are_spread_over_widths_and_depth() -> None:
    pruner, cost = parts()
    space = pruner.space
    probes = list(spread(space))
    dropped = [len(kept.dropped_blocks) for kept in probes]
    assert {0, 2, 5, 7} == set(dropped)
    work = [cost.work(kept) for kept in probes]
    assert min(w[2] for w in work) == cost.measure(space.smallest)["mflops"]
    assert len({tuple(space.cut_numbers(kept).values()) for kept in probes}) == len(probes) == 9
    assert space.full not in probes


def test_a_space_without_blocks_or_without_channels_has_probes_too() -> None:
    space = parts()[0].space
    assert len(list(spread(replace(space, blocks=())))) == 4
    assert len(list(spread(replace(space, groups=())))) == 3


def test_probes_are_timed_against_dense_as_trials_are_and_teach_the_law(tmp_path: Path) -> None:
    timer, said = FakeTimer(blocks=7, calls=3), list[str]()
    probes = timed(tmp_path, timer, said)
    assert timer.asked == [{"calls": 3}] * 9
    assert probes.timed[0].latency_ms == DENSE_MS
    dense = probes.cost.measure(ChannelCounts())["mflops"]
    for one in probes.timed:
        assert one.latency_ms == pytest.approx(DENSE_MS * (0.2 + 0.8 * probes.cost.measure(one.kept)["mflops"] / dense))
    assert probes.error < 0.1
    assert said[0].startswith("timing 9 pruned copies")
    assert said[1].startswith("latency is predicted within")


def test_probes_are_read_again_unless_they_were_timed_otherwise(tmp_path: Path) -> None:
    first = timed(tmp_path, FakeTimer())
    again, said = FakeTimer(), list[str]()
    assert timed(tmp_path, again, said) == first
    assert (again.asked, said) == ([], [])
    for otherwise in (FakeTimer(batch=2), FakeTimer(batch=2, runtime="onnxruntime")):
        assert timed(tmp_path, otherwise).timed[0] == first.timed[0]
        assert len(otherwise.asked) == 9
    StudyFolder(tmp_path).latency_probes.write_text('{"settings": ', encoding="utf-8")
    assert timed(tmp_path, again) == first
    assert len(again.asked) == 9


def test_probes_from_before_there_was_a_choice_of_runtimes_were_timed_in_pytorch(tmp_path: Path) -> None:
    file = StudyFolder(tmp_path).latency_probes
    first = timed(tmp_path, FakeTimer())
    stored = json.loads(file.read_text(encoding="utf-8"))
    del stored["settings"]["latency"]["runtime"]
    file.write_text(json.dumps(stored), encoding="utf-8")
    same, other = FakeTimer(), FakeTimer(runtime="onnxruntime")
    assert timed(tmp_path, same) == first
    assert same.asked == []
    timed(tmp_path, other)
    assert len(other.asked) == 9


def test_a_slow_network_is_called_less_often(tmp_path: Path) -> None:
    timer = FakeTimer(blocks=9, calls=100)
    timed(tmp_path, timer)
    assert {options["calls"] for options in timer.asked} == {10}  # 9 · 2 · 10 · 8 ms: below a second and a half


def test_only_a_search_that_looks_at_latency_needs_probes(tmp_path: Path) -> None:
    limited = Budget.parse({"latency_ms": 3})
    assert needs_probes(limited)
    assert not needs_probes(Budget())
    assert not needs_probes(Budget.parse({"mflops": 3}))
    study = StudyFolder(tmp_path / "study")
    study.create()
    prepared = prepare_study(
        tiny_spec(write_task(tmp_path), objectives=("accuracy", "mflops")), study, lambda message: None
    )
    assert build_proposals(prepared, Budget.parse({"mflops": 0.1})).probes is None
    assert not study.latency_probes.exists()
    share = Budget.parse({"latency_ms": "70%"}).resolve(prepared.dense)
    assert build_proposals(prepared, share).probes == build_proposals(prepared, share).probes is not None
    assert study.latency_probes.exists()
