"""Settings that a network does not work in fall back, are refused by their option, or are not to blame."""

from __future__ import annotations

import math
import warnings
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_toys import make_task, same_state, state_of

from autoprune import Task
from autoprune.errors import AutopruneError, DataError, ModelError, NonFiniteError, UsageError
from autoprune.tasks.classification import LabelledBatch
from autoprune.training.device.runtime import Runtime
from autoprune.training.device.seeding import seeded
from autoprune.training.loop import TrainingRun, train
from autoprune.training.loss import dense_loss
from autoprune.training.own_finetune import rehearse_loop
from autoprune.training.settings import FinetuneSettings
from autoprune.training.working_runtime import Rehearsal, working_runtime

FAST = Runtime(precision="bf16", channels_last=True, threads=1)
SETTINGS = FinetuneSettings(1.0, 16, 0.01, 0.0)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.middle(self.conv(x)).mean((2, 3)))  # type: ignore[no-any-return]

    def middle(self, x: Tensor) -> Tensor:
        return x


class Views(Net):
    def middle(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1).view(x.shape)


class ViewsInTraining(Net):
    def middle(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1).view(x.shape) if self.training else x


class ViewsComplex(Net):
    def middle(self, x: Tensor) -> Tensor:
        return torch.view_as_real(torch.view_as_complex(x.float().unflatten(3, (-1, 2)))).flatten(3)


class WritesIndices(Net):
    def middle(self, x: Tensor) -> Tensor:
        out = torch.zeros(x.shape)
        out[x.mean((1, 2, 3)) > -9] = x
        return out


class GoesThroughNumpy(Net):
    def middle(self, x: Tensor) -> Tensor:
        return x * torch.from_numpy(x.detach().numpy()).abs().mean()


class NumpyBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * float(gradient.cpu().numpy().mean())


class FailsBackward(Net):
    def middle(self, x: Tensor) -> Tensor:
        return NumpyBackward.apply(x)  # type: ignore[no-any-return, no-untyped-call]


class ComplexWeights(Net):
    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.ones(8, dtype=torch.complex64))

    def middle(self, x: Tensor) -> Tensor:
        return (x.float() * self.turn.view(-1, 1, 1)).real


class Both(Views):
    def middle(self, x: Tensor) -> Tensor:
        return super().middle(x) + GoesThroughNumpy.middle(self, x)  # type: ignore[arg-type]


class Warns(Net):
    def middle(self, x: Tensor) -> Tensor:
        warnings.warn("an odd way to go", stacklevel=1)
        return x


class RaisesInTraining(Net):
    def middle(self, x: Tensor) -> Tensor:
        return x * self.scale if self.training else x  # type: ignore[operator]


class RaisesAlways(Net):
    def middle(self, x: Tensor) -> Tensor:
        raise ValueError("no images, please\nat all")


def built(kind: type[Net]) -> Net:
    with seeded(0):
        return kind()


def rehearsal(settings: FinetuneSettings | None = SETTINGS) -> Rehearsal:
    batch = next(iter(make_task().train_stream(16, 0, 0, Runtime(threads=1))))
    made = LabelledBatch(batch.images.float(), batch.labels)
    return Rehearsal(made.images if settings is None else made, make_task() if settings else None, settings, 0)


@pytest.mark.parametrize(
    ("kind", "channels_last", "precision", "said"),
    [
        (Net, True, "bf16", []),
        (Warns, True, "bf16", []),
        (ComplexWeights, True, "bf16", []),
        (Views, False, "bf16", ["layout is contiguous"]),
        (ViewsInTraining, False, "bf16", ["layout is contiguous"]),
        (ViewsComplex, False, "bf16", ["layout is contiguous"]),
        (WritesIndices, True, "fp32", ["precision is fp32"]),
        (GoesThroughNumpy, True, "fp32", ["precision is fp32"]),
        (FailsBackward, True, "fp32", ["precision is fp32"]),
        (Both, False, "fp32", ["layout is contiguous", "precision is fp32"]),
    ],
)
def test_what_fails_falls_back_with_a_line_that_names_it(
    kind: type[Net], channels_last: bool, precision: str, said: list[str]
) -> None:
    network, lines = built(kind).eval(), list[str]()
    before = state_of(network)
    found = working_runtime(network, rehearsal(), FAST, set(), lines.append)
    assert (found.channels_last, found.precision) == (channels_last, precision)
    assert [line.partition(",")[0] for line in lines] == said
    assert all("Error" in line and "test_working_runtime.py:" in line and "\n" not in line for line in lines)
    assert same_state(before, state_of(network))
    assert not network.training
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("kind", "named", "option"),
    [
        (Views, {"layout"}, "--layout channels_last"),
        (Views, {"layout", "precision"}, "--layout channels_last"),
        (GoesThroughNumpy, {"precision"}, "--precision bf16"),
        (Both, {"layout", "precision"}, "--layout channels_last (runtime.layout) and --precision bf16"),
    ],
)
def test_what_was_asked_for_by_name_is_refused_by_its_option(kind: type[Net], named: set[str], option: str) -> None:
    with pytest.raises(UsageError) as raised:
        working_runtime(built(kind), rehearsal(), FAST, named, lambda line: None)
    assert str(raised.value).startswith(option)
    assert "test_working_runtime.py:" in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        (RaisesAlways, "does not run on an input of shape (16, 3, 8, 8): ValueError: no images, please (test_working"),
        (RaisesInTraining, "fails in training mode, in its forward or backward pass: AttributeError"),
    ],
)
@pytest.mark.parametrize("runtime", [FAST, Runtime(threads=1)])
def test_a_fault_of_the_networks_own_blames_no_setting(kind: type[Net], part: str, runtime: Runtime) -> None:
    with pytest.raises(ModelError) as raised:
        working_runtime(built(kind), rehearsal(), runtime, {"layout"}, lambda line: None)
    assert part in str(raised.value)
    assert "channels_last" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_network_that_is_only_run_may_fail_in_training_and_return_anything() -> None:
    kept = working_runtime(built(RaisesInTraining), rehearsal(None), FAST, set(), lambda line: None)
    assert kept == FAST
    assert not working_runtime(built(Views), rehearsal(None), FAST, set(), lambda line: None).channels_last


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_complex_weights_are_trained_without_the_fused_kernel(optimizer: str) -> None:
    network = built(ComplexWeights)
    settings = FinetuneSettings(1.0, 16, 0.01, 0.0, optimizer=optimizer)  # type: ignore[arg-type]
    train(network, TrainingRun(make_task(), settings, Runtime(threads=1), 0), dense_loss(make_task()))
    assert not torch.equal(network.turn.detach(), torch.ones(8, dtype=torch.complex64))


class FailsLater(Net):
    def middle(self, x: Tensor) -> Tensor:
        if len(x) != 16:
            raise ValueError("sixteen or nothing")
        return x


def test_what_fails_later_in_training_names_step_and_line() -> None:
    with pytest.raises(AutopruneError, match=r"at step 1 of 5: ValueError: sixteen .*_runtime\.py:\d+"):
        train(
            built(FailsLater),
            TrainingRun(make_task(), FinetuneSettings(1.0, 15, 0.01, 0.0), Runtime(threads=1), 0),
            dense_loss(make_task()),
        )


def small() -> nn.Module:
    with seeded(0):
        return nn.Linear(3, 1)


def own_task(**changes: Any) -> Task:
    batches = [(torch.ones(4, 3), torch.ones(4, 1))]
    given: dict[str, Any] = {
        "loss": lambda output, batch: (output - batch[1]).square().mean(),
        "score": lambda output, batch: (output - batch[1]).square().flatten(),
        **{"metric": "mse", "name": "ones", **changes},
    }
    return Task(batches, batches, **given)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"loss": lambda output, batch: batch[2]},
            r"the loss or the score of ones fails .* IndexError: .*test_working",
        ),
        ({"score": lambda output, batch: output["x"]}, r"the loss or the score of ones fails for what the network re"),
        ({"loss": lambda output, batch: output.mean() / 0}, "the loss of ones is -?inf on the first batch"),
    ],
)
def test_a_loss_or_a_score_that_fails_is_no_fault_of_the_network(changes: dict[str, Any], said: str) -> None:
    task, settings = own_task(**changes), FinetuneSettings(1.0, 4, 0.01, 0.0)
    tried = Rehearsal((torch.ones(4, 3), torch.ones(4, 1)), task, settings, 0)
    with pytest.raises((DataError, NonFiniteError), match=said):
        working_runtime(small(), tried, Runtime(threads=1), set(), lambda line: None)


def test_an_evaluation_is_tried_before_training_and_may_be_nan_of_an_untrained_network() -> None:
    network, runtime = small(), Runtime(threads=1)
    rehearse_loop(network, own_task(score=None, evaluate=lambda network, batches: float("nan")), runtime, 0)
    with pytest.raises(DataError, match="evaluate of ones gave 'good'"):
        rehearse_loop(network, own_task(score=None, evaluate=lambda network, batches: "good"), runtime, 0)


@pytest.mark.parametrize("steps_into", ["weight", "buffer"])
def test_a_loop_that_leaves_nan_is_met_in_the_rehearsal(steps_into: str) -> None:
    def spoil(network: nn.Module, steps: int, seed: int, on_step: Any) -> None:
        with torch.no_grad():
            dict(chain(network.named_parameters(), network.named_buffers()))[name].fill_(math.nan)

    with seeded(0):
        network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    name = {"weight": "0.weight", "buffer": "1.running_mean"}[steps_into]
    task = own_task(score=None, finetune=spoil, evaluate=lambda network, batches: 0.5)
    with pytest.raises(DataError, match=rf"NaN or infinite numbers in the network after one step on ones \({name}\)"):
        rehearse_loop(network, task, Runtime(threads=1), 0)
    with torch.no_grad():
        dict(chain(network.named_parameters(), network.named_buffers()))[name].fill_(math.nan)
    rehearse_loop(network, task, Runtime(threads=1), 0)  # which was so before the loop
