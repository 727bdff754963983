import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from training_toys import Toy, make_task, make_toy, same_state, state_of

from autoprune.errors import DataError, ModelError, NonFiniteError, UnknownNameError
from autoprune.tasks.in_memory import ArrayTask
from autoprune.tasks.reached_score import proportion_stderr
from autoprune.training.device.runtime import Runtime
from autoprune.training.scoring import score


class Brightest(nn.Module):
    """A network that is right on every image of the toy task."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) * 50


class Broken(nn.Module):
    """A network that returns NaN, or infinity, for one image in each batch."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        logits = x.mean((2, 3))
        logits[0, 0] = self.value
        return logits


def test_equals_the_sum_by_hand(task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
    toy.eval()
    batch = next(iter(task.eval_batches("val", 1000, runtime)))
    with torch.no_grad():
        logits = toy(batch.images)
    losses = F.cross_entropy(logits, batch.labels, reduction="none").double()
    result = score(toy, task, "val", runtime, batch_size=7)
    assert result.count == 30
    assert result.paired is not None
    assert result.paired.kind == "right"
    assert result.measurement["accuracy"] == pytest.approx(float((logits.argmax(1) == batch.labels).double().mean()))
    assert result.loss == pytest.approx(float(losses.mean()), rel=1e-5)
    assert result.loss_stderr == pytest.approx(float(losses.std()) / math.sqrt(30), rel=1e-5)
    assert result.paired is not None
    assert result.paired.unpack().tolist() == (logits.argmax(1) == batch.labels).tolist()


def test_perfect_is_not_certain(task: ArrayTask, runtime: Runtime) -> None:
    result = score(Brightest(), task, "val", runtime)
    assert result.measurement["accuracy"] == 1.0
    assert 0.02 < result.measurement.error("accuracy") < 0.1


def test_leaves_the_network_as_it_was(task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
    toy.train()
    toy.bn.eval()
    before = state_of(toy)
    score(toy, task, "val", runtime)
    assert same_state(state_of(toy), before)
    assert (toy.training, toy.bn.training, toy.fc.training) == (True, False, True)
    assert all(parameter.grad is None for parameter in toy.parameters())


def test_dropout_is_off(task: ArrayTask, runtime: Runtime) -> None:
    network = make_toy(dropout=0.9)
    assert score(network, task, "val", runtime) == score(network, task, "val", runtime)


def test_limit_takes_the_same_images_every_time(task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
    few = score(toy, task, "val", runtime, limit=9)
    assert few.count == 9
    assert few == score(toy, task, "val", runtime, limit=9, batch_size=9)
    assert score(toy, task, "val", runtime, limit=10**6).count == 30


def test_bf16_scores_alike(task: ArrayTask, toy: Toy, runtime: Runtime) -> None:
    low = score(toy, task, "val", Runtime(precision="bf16", channels_last=True))
    assert low.loss == pytest.approx(score(toy, task, "val", runtime).loss, abs=0.02)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_outputs(task: ArrayTask, runtime: Runtime, value: float) -> None:
    with pytest.raises(NonFiniteError, match="val examples are NaN or infinite; train"):
        score(Broken(value), task, "val", runtime)


def test_wrong_number_of_outputs(task: ArrayTask, runtime: Runtime) -> None:
    with pytest.raises(ModelError, match="as many outputs as the data has classes"):
        score(make_toy(num_classes=4), task, "val", runtime)


def test_empty_and_unknown_splits(toy: Toy, runtime: Runtime) -> None:
    with pytest.raises(DataError, match="no test examples"):
        score(toy, make_task(test=0), "test", runtime)
    with pytest.raises(UnknownNameError, match="did you mean 'val'"):
        score(toy, make_task(), "valid", runtime)


def test_one_image(toy: Toy, runtime: Runtime) -> None:
    result = score(toy, make_task(), "val", runtime, limit=1)
    assert result.loss_stderr is None  # of one example nobody knows it
    assert math.isfinite(result.measurement.error("accuracy"))


@given(count=st.integers(1, 10**6), data=st.data())
def test_stderr_is_positive_symmetric_and_close_to_the_textbook(count: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, count))
    assert 0 < proportion_stderr(right, count) <= 0.5
    assert proportion_stderr(right, count) == pytest.approx(proportion_stderr(count - right, count))
    share = right / count
    if count > 1000 and 0.1 < share < 0.9:
        assert proportion_stderr(right, count) == pytest.approx(math.sqrt(share * (1 - share) / count), rel=0.02)
