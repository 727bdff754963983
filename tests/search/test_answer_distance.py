"""How far answers are from the dense network's: the same from a pass of its own and from a scoring's, kept or not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import autoprune.search.setup.answer_distance as answer_distance
from autoprune.errors import NonFiniteError
from autoprune.search.setup.answer_distance import AnswerDistance
from autoprune.search.setup.context import StudyContext
from autoprune.study.folder import StudyFolder
from autoprune.study.spec import StudySpec
from autoprune.tasks.in_memory import Arrays, ArrayTask
from autoprune.training.device.resolve_runtime import resolve_runtime
from autoprune.training.scoring import score

IMAGES = 300  # more than one batch


def build(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()


@pytest.fixture
def context(tmp_path: Path) -> StudyContext:
    images = torch.randint(0, 256, (400, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    arrays = Arrays(images, torch.arange(400) % 3)
    device = resolve_runtime("cpu", "fp32", "contiguous", 1)
    return StudyContext(StudySpec(), ArrayTask("noise", arrays, arrays), device, StudyFolder(tmp_path), print)


def scored(network: nn.Module, distance: AnswerDistance) -> float:
    found, context = distance.of_answers(), distance.context
    score(network, context.task, "val", context.device, limit=IMAGES, on_answer=found.add)
    return found.mean


def test_a_scoring_tells_the_distance_that_a_pass_of_its_own_tells(context: StudyContext) -> None:
    distance = AnswerDistance(context, build(0), IMAGES)
    assert scored(build(1), distance) == distance(build(1)) > 0
    assert scored(build(0), distance) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kept", [0, 4 * 3 * 256, 1 << 20], ids=["none", "the first batch", "all"])
def test_answers_that_take_too_much_memory_are_made_anew(
    context: StudyContext, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    whole = AnswerDistance(context, build(0), IMAGES)(build(1))
    monkeypatch.setattr(answer_distance, "KEPT_BYTES", kept)
    calls = list[int]()
    dense = build(0)
    dense.register_forward_hook(lambda *_: calls.append(1))
    distance = AnswerDistance(context, dense, IMAGES)
    assert distance(build(1)) == distance(build(1)) == whole
    assert len(calls) == {0: 4, 4 * 3 * 256: 3, 1 << 20: 2}[kept]


def test_answers_that_are_not_finite_are_refused(context: StudyContext) -> None:
    broken = build(1)
    nn.init.constant_(broken[1].weight, float("nan"))
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        AnswerDistance(context, build(0), IMAGES)(broken)
