"""How sensitivity is measured: once per study, in rounds, the most telling first, and never when it is not wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.core.counts import ChannelCounts
from autoprune.core.notify import Notify, silent
from autoprune.core.sensitivity import Sensitivity
from autoprune.core.space import SearchSpace
from autoprune.errors import NonFiniteError
from autoprune.pruning.groups import find_groups
from autoprune.pruning.importance import Calibration, score_groups
from autoprune.pruning.surgery import Pruner, shrink
from autoprune.search.setup import measure_tolerance as threshold
from autoprune.search.setup.context import StudyContext
from autoprune.search.setup.measure_sensitivity import BROKEN, SensitivityProbe, measured_sensitivity
from autoprune.study.folder import StudyFolder
from autoprune.study.spec import StudySpec
from autoprune.tasks.in_memory import Arrays, ArrayTask
from autoprune.training.device.resolve_runtime import resolve_runtime
from autoprune.training.recalibrate_batchnorm import recalibrate_batchnorm

LONG = {"trials": 10_000, "finetune": {"epochs": 10.0}}
SHORT = {"trials": 1, "finetune": {"epochs": 0.0, "recalibration_images": 1}}


@dataclass
class Heard:
    """Collect the messages."""

    said: list[str] = field(default_factory=list)

    def __call__(self, message: str) -> None:
        self.said.append(message)


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 3),
    ).eval()


def probe_of(
    network: nn.Module, folder: StudyFolder, notify: Notify = silent, spec: Mapping[str, Any] | None = None
) -> SensitivityProbe:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (160, 1, 8, 8), generator=generator).to(torch.uint8)
    labels = torch.arange(160) % 3
    task = ArrayTask("noise", Arrays(images[:96], labels[:96]), Arrays(images[96:], labels[96:]))
    groups = find_groups(network, torch.rand(2, 1, 8, 8)).cuttable
    space = SearchSpace(groups, {group.name: ("l2",) for group in groups})
    scores = score_groups(network, groups, ["l2"], Calibration([], 0, (1, 8, 8)))
    device = resolve_runtime("cpu", "fp32", "contiguous", 1)
    context = StudyContext(StudySpec.model_validate(spec or LONG), task, device, folder, notify)
    return SensitivityProbe.of(context, Pruner(network, space, scores), images=64)


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path)


def measure(folder: StudyFolder, spec: Mapping[str, Any] = LONG, **wish: Any) -> tuple[Sensitivity, Heard]:
    heard = Heard()
    probe = probe_of(build(), folder, heard, {**spec, "sensitivity": wish})
    return measured_sensitivity(probe.context, probe.pruner), heard


def test_every_group_is_cut_to_half_and_a_quarter_and_compared_with_the_dense_network(folder: StudyFolder) -> None:
    found, heard = measure(folder)
    assert set(found.curves) == {"0", "3"}
    for name, full in (("0", 8), ("3", 16)):
        assert found.curves[name].full == full
        assert {full // 2, full // 4} <= set(found.curves[name].rises)
        assert full not in found.curves[name].rises
    probe = probe_of(build(), folder)
    images = found.settings["images"]
    assert found.dense_loss == pytest.approx(probe.loss({}))
    assert found.curves["3"].rises[4] == pytest.approx(probe.rise({"3": 4}, found.dense_loss))
    assert all(rise >= 0 for curve in found.curves.values() for rise in curve.rises.values())
    assert (found.measure, found.settings["compensated"]) == ("divergence", True)
    assert heard.said[0] == "measuring how sensitive 2 groups and blocks are, on 64 validation examples each"
    assert images == 64, "there are no more"


def test_answers_are_compared_with_the_dense_ones_after_the_refit(folder: StudyFolder) -> None:
    probe = probe_of(build(), folder)
    network, task = probe.pruner.network, probe.context.task
    (batch,) = task.eval_batches("val", 64, probe.context.device, limit=64)
    cut = shrink(network, probe.pruner.cut(probe.pruner.space.policy(ChannelCounts({"3": 4}))))
    whole = shrink(network, {})
    for net in (whole, cut):
        recalibrate_batchnorm(net, task, 64, probe.context.device, 0, batch_size=64)
    with torch.no_grad():
        images = task.inputs(network, batch).args[0]
        dense, pruned = (net.eval()(images).log_softmax(1) for net in (whole, cut))
    expected = (dense.exp() * (dense - pruned)).sum(1).mean()
    assert replace(probe, moments=None).rise({"3": 4}, 0.0) == pytest.approx(float(expected), rel=1e-4)
    assert probe.rise({"3": 4}, 0.0) < float(expected) / 2  # what the refit makes up for is not counted
    assert probe.rise({}, 0.0) == pytest.approx(0, abs=1e-9)


def test_the_loss_is_measured_where_nothing_compares_answers(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ArrayTask, "distill", lambda *given: None)
    found, _ = measure(folder, LONG | {"finetune": {"epochs": 9.0, "compensation_images": 0}})
    probe = probe_of(build(), folder, spec={"finetune": {"compensation_images": 0}})
    assert (found.measure, found.settings["compensated"]) == ("loss", False)
    assert found.curves["3"].rises[4] == pytest.approx(probe.loss({"3": 4}) - found.dense_loss)


def test_it_is_measured_once_and_then_read(folder: StudyFolder) -> None:
    first, _ = measure(folder)
    again, heard = measure(folder)
    assert again == first
    assert not heard.said


NO_CURVES = Sensitivity().to_json()


@pytest.mark.parametrize("damage", ["", '{"version": 1, "cur', NO_CURVES])
def test_a_file_cut_short_or_of_other_groups_is_measured_again(folder: StudyFolder, damage: str) -> None:
    folder.sensitivity.write_text(damage)
    found, heard = measure(folder)
    assert set(found.curves) == {"0", "3"}
    assert heard.said


def test_it_is_skipped_if_it_is_not_wanted(folder: StudyFolder) -> None:
    found, heard = measure(folder, enabled=False)
    assert not found.curves
    assert not heard.said
    assert not folder.sensitivity.exists()


def test_a_short_search_gets_the_first_round_only(folder: StudyFolder) -> None:
    found, _ = measure(folder, SHORT)
    assert {name: set(curve.rises) for name, curve in found.curves.items()} == {"0": {4}, "3": {8}}


def test_a_cut_that_breaks_the_network_is_not_tolerated_and_ends_no_search(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, measured = Heard(), threshold.score
    probe = probe_of(build(), folder, heard, {"space": {"max_drop": 0.9, "calibration_images": 96}})

    def broken(network: nn.Module, *given: Any, **named: Any) -> Any:
        if network is not probe.pruner.network and network[3].out_channels < 6:
            raise NonFiniteError("the outputs are NaN")
        return measured(network, *given, **named)

    monkeypatch.setattr(threshold, "score", broken)
    counts = threshold.tolerated_counts(probe.context, probe.pruner)
    assert counts == {"0": 1, "3": 6}
    assert "3 cut to 5 breaks the network (the outputs are NaN); that is not tolerated" in heard.said


def test_the_dense_network_stays_as_it_was(folder: StudyFolder) -> None:
    network = build()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    probe = probe_of(network, folder)
    measured_sensitivity(probe.context, probe.pruner)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_cut_that_breaks_the_network_counts_as_a_great_rise_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, rise = Heard(), SensitivityProbe.rise
    probe = probe_of(build(), StudyFolder(tmp_path), heard)

    def broken(self: SensitivityProbe, kept: dict[str, int], dense_loss: float) -> float:
        if "3" in kept:
            raise NonFiniteError("the outputs are NaN")
        return rise(self, kept, dense_loss)

    monkeypatch.setattr(SensitivityProbe, "rise", broken)
    found = measured_sensitivity(probe.context, probe.pruner)
    assert set(found.curves["3"].rises.values()) == {BROKEN}
    assert max(found.curves["0"].rises.values()) < BROKEN
    assert any(said.startswith("3 cut to 8 breaks the network (the outputs are NaN)") for said in heard.said)
    assert Sensitivity.from_json(found.to_json()) == found
