"""Compensation on every kind of network: what it must never do, and what it says about what it leaves."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from pruning_nets import NETWORKS, outputs, random_cut
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.errors import ModelError
from autoprune.models.calling.inputs import Inputs
from autoprune.models.cifar_resnet import CifarResNet
from autoprune.pruning.compensation import dense_answers as answers_module
from autoprune.pruning.compensation import readers as readers_module
from autoprune.pruning.compensation.calibration_examples import joined
from autoprune.pruning.compensation.compensate import compensate
from autoprune.pruning.compensation.dense_answers import DenseAnswers, dense_answers
from autoprune.pruning.compensation.layer_flow import TensorPlace
from autoprune.pruning.cut_plan import CutPlan, KeptChannels
from autoprune.pruning.groups import find_groups
from autoprune.pruning.light_copy import copier_of
from autoprune.pruning.surgery import shrink

# layers that are left on purpose, by a word of the reason
LEFT = {"depthwise": "depthwise", "shufflenet": "depthwise", "convnext": "depthwise"}
LEFT |= {"lstm": "recurrent", "gru": "recurrent", "rnn": "recurrent", "swin v2": "not called"}


def calibration(example: Tensor, count: int = 64) -> Tensor:
    draw, shape = torch.Generator().manual_seed(1), (count, *example.shape[1:])
    if example.is_floating_point():
        return torch.randn(shape, generator=draw)
    return torch.randint(0, int(example.max()) + 1, shape, generator=draw)


def error(network: nn.Module, dense: Tensor, examples: Tensor) -> float:
    return float((outputs(network, examples) - dense).square().mean())


@pytest.mark.parametrize("name", NETWORKS)
def test_answers_come_nearer_to_the_dense_ones_and_nothing_else_changes(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name].lively().eval()
    former, examples = copy.deepcopy(network.state_dict()), calibration(NETWORKS[name].example())
    cut = random_cut(network, find_groups(network, NETWORKS[name].example()).cuttable)
    answers, dense = dense_answers(network, Inputs.of(examples)), outputs(network, examples)
    pruned, again = shrink(network, cut), shrink(network, cut)
    sliced, before = copy.deepcopy(pruned.state_dict()), error(pruned, dense, examples)

    found = compensate(pruned, answers, cut)

    assert error(pruned, dense, examples) < before / 2
    changed = {key.rpartition(".")[0] for key, value in pruned.state_dict().items() if not value.equal(sliced[key])}
    assert changed == {*found.refitted, *found.norms}
    assert all(value.equal(former[key]) for key, value in network.state_dict().items())
    assert not found.left
    assert all(LEFT.get(name, "!") in reason for reason in answers.left.values())
    assert compensate(again, answers, cut) == found  # the same seed, the same bits
    assert all(value.equal(pruned.state_dict()[key]) for key, value in again.state_dict().items())
    whole = shrink(network, {})
    nothing = compensate(whole, answers, {})
    assert (nothing.refitted, nothing.norms) == ((), ())  # zero cut
    assert all(value.equal(former[key]) for key, value in whole.state_dict().items())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_quick_copy_answers_alike_and_shares_nothing(name: str) -> None:
    network = NETWORKS[name].lively().eval()
    example, former = NETWORKS[name].example(), copy.deepcopy(network.state_dict())
    copied = copier_of(network)(network)
    assert outputs(copied, example).equal(outputs(network, example))
    with torch.no_grad():
        for tensor in (*copied.parameters(), *copied.buffers()):
            tensor.add_(1)
    assert all(value.equal(former[key]) for key, value in network.state_dict().items())


@pytest.fixture(scope="module")
def resnet() -> CifarResNet:
    torch.manual_seed(0)
    return NETWORKS["resnet8"].lively().float().eval()


def half_cut(network: nn.Module, group: str = "layer1.0.conv1") -> CutPlan:
    groups = find_groups(network, torch.randn(2, 3, 16, 16)).cuttable
    members = next(each for each in groups if each.name == group).members
    return {m.module: KeptChannels({m.side: tuple(range(0, len(m.indices), 2))}) for m in members}


def test_the_last_layer_of_a_residual_branch_makes_up_for_the_other_summand(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = CifarResNet(2).eval()
    examples = torch.randn(128, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    cut = {"layer1.0": KeptChannels({"block": ()})}  # an error in the stream that only the next sum's target knows of
    answers = dense_answers(network, Inputs.of(examples))
    assert answers.flow.sums["layer1.1.bn2"][-1] == TensorPlace("layer1.1.conv1", True)  # what the block reads
    assert answers.flow.sums["layer2.0.bn2"][0] == TensorPlace("layer2.0.downsample.1", False)
    flow = answers_module.watch_flow
    monkeypatch.setattr(answers_module, "watch_flow", lambda *given: replace(flow(*given), sums={}))
    unaware = dense_answers(network, Inputs.of(examples))

    def stream(network: nn.Module) -> Tensor:
        return network.layer1(F.relu(network.bn1(network.conv1(examples))))

    def wrong(answers: DenseAnswers) -> float:
        pruned = shrink(network, cut)
        compensate(pruned, answers, cut)
        with torch.no_grad():
            return float((stream(network) - stream(pruned)).square().mean())

    assert wrong(answers) < 0.9 * wrong(unaware)


def test_a_dropped_block_changes_only_what_comes_behind_it(resnet: CifarResNet) -> None:
    examples = torch.randn(128, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    dense, answers = outputs(resnet, examples), dense_answers(resnet, Inputs.of(examples))
    cut = {"layer1.0": KeptChannels({"block": ()})}
    pruned = shrink(resnet, cut)
    before = error(pruned, dense, examples)
    found = compensate(pruned, answers, cut)
    assert error(pruned, dense, examples) < before / 2
    assert found.refitted[0] == "layer2.0.downsample.0"
    assert not any(path.startswith(("conv1", "bn1", "layer1")) for path in (*found.refitted, *found.norms))


def test_a_layer_with_fewer_rows_than_inputs_keeps_its_weights_and_says_so(resnet: CifarResNet) -> None:
    cut = half_cut(resnet, "layer3.0.conv1")
    answers = dense_answers(resnet, Inputs.of(torch.randn(3, 3, 16, 16)))
    pruned = shrink(resnet, cut)
    weight = pruned.layer3[0].conv2.weight.clone()
    found = compensate(pruned, answers, cut)
    assert "48 rows for the 288 inputs" in found.left["layer3.0.conv2"]
    assert pruned.layer3[0].conv2.weight.equal(weight)
    assert "layer3.0.bn2" in found.norms  # which is measured all the same


def test_numbers_that_are_not_finite_leave_everything_as_it_is(resnet: CifarResNet) -> None:
    cut, examples = half_cut(resnet), torch.randn(32, 3, 16, 16)
    examples[0] = float("nan")
    pruned = shrink(resnet, cut)
    former = copy.deepcopy(pruned.state_dict())
    found = compensate(pruned, dense_answers(resnet, Inputs.of(examples)), cut)
    assert (found.refitted, found.norms) == ((), ())
    assert "not finite" in found.left["layer1.0.conv2"]
    assert all(value.equal(former[key]) for key, value in pruned.state_dict().items())


def test_a_network_in_half_precision_is_refitted_in_float32_and_stays_in_half(resnet: CifarResNet) -> None:
    cut, examples = half_cut(resnet), torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    network = copy.deepcopy(resnet).to(torch.bfloat16)
    pruned = shrink(network, cut)
    found = compensate(pruned, dense_answers(network, Inputs.of(examples.bfloat16())), cut)
    single = shrink(copy.deepcopy(network).float(), cut)
    compensate(single, dense_answers(copy.deepcopy(network).float(), Inputs.of(examples.bfloat16().float())), cut)
    assert "layer1.0.conv2" in found.refitted
    for key, value in pruned.state_dict().items():
        assert value.dtype == network.state_dict()[key].dtype
        assert value.equal(single.state_dict()[key].to(value.dtype))


class Odd(nn.Module):
    """Call one layer twice, share a weight, and return what is constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.tied, self.also = (nn.Linear(8, 8) for _ in range(4))
        self.constant, self.scaled = nn.Linear(8, 4), nn.utils.parametrizations.weight_norm(nn.Linear(8, 4))
        self.also.weight = self.tied.weight
        nn.init.zeros_(self.constant.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.also(self.tied(self.twice(self.twice(self.first(x).relu()).relu()).relu()).relu())
        return torch.cat([self.constant(x), self.scaled(x)], 1)


def test_what_cannot_be_refitted_is_named_with_its_reason() -> None:
    torch.manual_seed(0)
    network, examples = Odd().eval(), torch.randn(200, 8)
    cut = {"first": KeptChannels({"out": (0, 1, 2, 3)}), "twice": KeptChannels({"in": (0, 1, 2, 3)})}
    answers = dense_answers(network, Inputs.of(examples))
    reasons = {path: reason.split(",")[0] for path, reason in answers.left.items()}
    assert reasons == {
        "twice": "it is called more than once",
        "tied": "it shares its weight with another layer",
        "also": "it shares its weight with another layer",
        "scaled": "its weight is computed from others",
    }
    with pytest.raises(ModelError, match="does not run"):
        compensate(shrink(network, cut), answers, cut)  # this cut of it does not run at all
    pruned = copy.deepcopy(network)
    pruned.first.weight.data[4:] = 0
    found = compensate(pruned, answers, {})
    assert found.refitted == ("first",)  # the constant answers are what they should be


@pytest.mark.parametrize(
    ("limit", "bytes_"), [("ACTIVATION_BYTES", 4 * 4 * 16 * 16 * 16 * 10), ("TARGET_BYTES", 400_000)]
)
def test_memory_is_bounded_by_taking_fewer_examples(
    resnet: CifarResNet, monkeypatch: pytest.MonkeyPatch, limit: str, bytes_: int
) -> None:
    examples = Inputs.of(torch.randn(64, 3, 16, 16))
    whole = dense_answers(resnet, examples)
    assert whole.inputs.size == 64
    monkeypatch.setattr(answers_module, limit, bytes_)
    fewer = dense_answers(resnet, examples)
    assert 1 <= fewer.inputs.size < 64
    kept = sum(target.rows.numel() * 4 for target in fewer.targets.values())
    assert limit == "ACTIVATION_BYTES" or kept <= bytes_


@pytest.mark.parametrize(("enough", "looked_at"), [(None, 100), (80, 80), (20, 64), (64, 64)])
def test_more_examples_than_are_enough_are_looked_at_only_for_a_layer_with_one_row_of_each(
    resnet: CifarResNet, enough: int | None, looked_at: int
) -> None:
    classifier = resnet.get_submodule("fc")
    assert isinstance(classifier, nn.Linear)
    assert classifier.in_features == 64
    answers = dense_answers(resnet, Inputs.of(torch.randn(100, 3, 16, 16)), enough=enough)
    assert answers.inputs.size == looked_at


def test_layers_of_too_many_inputs_are_left(resnet: CifarResNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers_module, "MOST_INPUTS", 100)
    left = dense_answers(resnet, Inputs.of(torch.randn(4, 3, 16, 16))).left
    assert left["layer1.0.conv2"] == "144 inputs to each output, more than 100"


def test_batches_are_joined_as_far_as_they_fit() -> None:
    batches = [
        Inputs.of({"x": torch.full((2, n), float(n)), "y": torch.zeros(2, dtype=torch.int64)}) for n in (3, 5, 3)
    ]
    found = joined(batches, most=3)
    assert found is not None
    assert [tuple(tensor.shape) for tensor in found.tensors] == [(3, 3), (3,)]
    assert joined([Inputs.of([torch.zeros(3, 4)]), Inputs.of([torch.zeros(3, 4)])], most=9).size is None
    assert joined([], most=9) is None
