"""The physical oracle: a pruned network computes what the dense one computes with those channels zeroed.

Everything runs in float64, so that a wrong channel cannot hide behind rounding.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from pruning_nets import NETWORKS, OUTPUT, Network, counted, outputs
from torch import Tensor, nn

from autoprune.core.builtin_names import IMPORTANCES
from autoprune.core.channel_groups import Block, PruningGroup
from autoprune.core.policy import GroupPolicy, PruningPolicy
from autoprune.core.space import SearchSpace
from autoprune.cost.cost_model import CostModel
from autoprune.errors import ModelError
from autoprune.models.cifar_resnet import resnet20
from autoprune.pruning.channel_positions import tensor_shrinks
from autoprune.pruning.cut_plan import CutPlan, KeptChannels
from autoprune.pruning.find_blocks import find_blocks
from autoprune.pruning.groups import Groups, find_groups
from autoprune.pruning.importance import Calibration, score_groups
from autoprune.pruning.layers.kinds import axes_of, kind_of
from autoprune.pruning.surgery import Pruner, lowest_channels, removed_channels, shrink, zeroed

CRITERIA = sorted(IMPORTANCES.builtins)
# what is frozen besides the output: name of the group → why
FROZEN: Mapping[str, dict[str, str]] = {
    "option-a": {"stem": "is padded with a fixed number of channels", "outer2": "is combined with a tensor of fixed"},
}


@dataclass(frozen=True)
class Case:
    """A network with its groups, blocks and scores, and a copy of its state from before they were found."""

    name: str
    network: Network
    pruner: Pruner
    groups: Groups
    blocks: tuple[Block, ...]
    inputs: Tensor
    former: dict[str, Tensor]

    def policy(self, criterion: str, dropped: tuple[str, ...] = (), seed: int = 0) -> PruningPolicy:
        """Prune every group that the criterion scores, each by another sparsity."""
        draw = random.Random(f"{criterion} {seed}")
        scored = self.pruner.scores.get(criterion, {})
        chosen = {name: GroupPolicy(draw.uniform(0.1, 0.8), criterion) for name in scored}
        return PruningPolicy(chosen, dropped_blocks=dropped)


@pytest.fixture(scope="module", params=NETWORKS)
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(0)
    kind = NETWORKS[request.param]
    network = kind.lively().double()
    former = copy.deepcopy(network.state_dict())
    inputs = kind.example()
    groups = find_groups(network, inputs)
    blocks = find_blocks(network, inputs, groups.cuttable)
    names = [name for name in CRITERIA if name != "synflow" or inputs.is_floating_point()]  # words cannot be ones
    scores = score_groups(network, groups.cuttable, names, Calibration([(inputs, torch.tensor([7]))]))
    importances = {group.name: tuple(c for c in names if group.name in scores[c]) for group in groups.cuttable}
    pruner = Pruner(network, SearchSpace(groups.cuttable, importances, blocks=blocks), scores)
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    return Case(request.param, kind, pruner, groups, blocks, inputs, former)


def without_producers(network: nn.Module, cut: CutPlan) -> nn.Module:
    """Zero the removed channels where they are produced, and leave those who read them as they are."""
    twin = copy.deepcopy(network)
    for path, kept in cut.items():
        module = twin.get_submodule(path)
        for side, stay in kept.sides.items():
            for axis in axes_of(module, side) if side != "in" else ():
                tensor = getattr(module.get_submodule(axis.tensor.rpartition(".")[0]), axis.tensor.rpartition(".")[2])
                gone = axis.positions(c for c in range(kind_of(module).sizes(module)[side]) if c not in stay)
                if axis.produces and not axis.tensor.startswith("running"):
                    tensor.data.index_fill_(axis.dim, torch.tensor(gone), 0)
    return twin


@pytest.mark.parametrize("criterion", CRITERIA)
def test_pruned_is_zeroed_and_not_dense(case: Case, criterion: str) -> None:
    policy = case.policy(criterion)
    if not policy.groups:
        pytest.skip(f"{criterion} applies to no group")
    cut = case.pruner.cut(policy)
    dense, pruned = (outputs(n, case.inputs) for n in (case.pruner.network, case.pruner.prune(policy)))
    scale = float(dense.abs().max())
    twins = [zeroed(case.pruner.network, cut)]
    if case.network.silent:
        twins.append(without_producers(case.pruner.network, cut))
    for twin in twins:
        torch.testing.assert_close(pruned, outputs(twin, case.inputs), rtol=0, atol=1e-12 * scale)
    assert float((pruned - dense).abs().max()) > 1e-3 * scale


@pytest.mark.parametrize("seed", range(3))
def test_pruned_without_blocks_is_zeroed_without_them_and_costs_what_the_closed_form_says(
    case: Case, seed: int
) -> None:
    draw = random.Random(seed)
    dropped = tuple(block.name for block in case.blocks if draw.random() < 0.5)
    policy = case.policy("l2", dropped, seed)
    pruned = case.pruner.prune(policy)
    dense = outputs(case.pruner.network, case.inputs)
    twin = zeroed(case.pruner.network, case.pruner.cut(policy))
    torch.testing.assert_close(
        outputs(pruned, case.inputs), outputs(twin, case.inputs), rtol=0, atol=1e-12 * float(dense.abs().max())
    )
    space = case.pruner.space
    costs = CostModel(
        case.pruner.network,
        tensor_shrinks(case.pruner.network, space.groups),
        {group.name: group.num_channels for group in space.groups},
        case.inputs,
        blocks=case.blocks,
    )
    assert costs.count(space.counts(policy)) == counted(pruned, case.inputs)


def test_networks_built_of_residual_modules_have_blocks(case: Case) -> None:
    assert bool(case.blocks) == case.network.has_blocks


@pytest.mark.parametrize("criterion", CRITERIA)
def test_what_goes_scores_no_higher_than_what_stays(case: Case, criterion: str) -> None:
    policy = case.policy(criterion)
    kept = case.pruner.space.counts(policy).channels
    for name, gone in removed_channels(case.pruner.space, policy, case.pruner.scores).items():
        scores = case.pruner.scores[criterion][name]
        stays = [channel for channel in range(len(scores)) if channel not in gone]
        assert len(stays) == kept[name]
        assert scores[list(gone)].max() <= scores[stays].min()


def test_of_equal_scores_the_lower_index_goes_first() -> None:
    assert lowest_channels(torch.tensor([2.0, 1.0, 1.0, 0.0, 1.0]), 3) == (1, 2, 3)
    assert lowest_channels(torch.zeros(100), 40) == tuple(range(40))


def test_a_criterion_without_scores_is_named_with_those_there_are() -> None:
    space = SearchSpace((PruningGroup("a", 8, ()),), {"a": ("l1", "l2")})
    with pytest.raises(ModelError, match=r"group 'a' has no scores by 'taylor'; the study scores it by l1, l2"):
        removed_channels(space, PruningPolicy.uniform(0.5, "taylor", names=["a"]), {"l1": {"a": torch.ones(8)}})


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ({"layer9": KeptChannels({"out": (0,)})}, "has no module or parameter 'layer9'"),
        ({"conv1": KeptChannels({"out": (0, 16)})}, "'conv1' has 16 out channels and cannot keep 2 of them up to 16"),
        ({"conv1": KeptChannels({"in": ()})}, "'conv1' has 3 in channels and cannot keep 0 of them"),
        ({"conv1": KeptChannels({"heads": (0,)})}, "'conv1' has 0 heads channels and cannot keep 1 of them up to 0"),
        ({"layer1": KeptChannels({"out": (0,)})}, "'layer1' is a Sequential, which has no channels that can be cut"),
    ],
)
def test_a_cut_made_for_another_network_is_refused(cut: CutPlan, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        shrink(resnet20(), cut)


def test_only_what_must_be_is_frozen(case: Case) -> None:
    frozen = {group.name: group.reason for group in case.groups.frozen}
    assert [name for name, reason in frozen.items() if reason == OUTPUT] == list(frozen)[-1:]
    expected = FROZEN.get(case.name, {})
    assert list(frozen)[:-1] == list(expected)
    assert all(words in frozen[name] for name, words in expected.items())
    assert len(case.groups.cuttable) >= 2


def test_every_channel_is_in_at_most_one_group_and_has_as_many_places_as_the_others(case: Case) -> None:
    owned = set()
    for group in case.groups.cuttable:
        for member in group.members:
            assert len(member.indices) == group.num_channels * member.width
            places = {(member.module, member.side, index) for index in member.indices}
            assert len(places) == len(member.indices)
            assert not places & owned
            owned |= places


def test_a_cut_survives_json_and_rebuilds_the_same_network(case: Case) -> None:
    policy = case.policy("l1", tuple(block.name for block in case.blocks[:1]))
    cut = case.pruner.cut(policy)
    again = {path: KeptChannels.from_json(kept.to_json()) for path, kept in cut.items()}
    assert again == cut
    rebuilt = shrink(case.pruner.network, again)
    assert torch.equal(outputs(rebuilt, case.inputs), outputs(case.pruner.prune(policy), case.inputs))


def test_the_dense_network_is_untouched_to_the_last_bit(case: Case) -> None:
    network = case.pruner.network
    case.pruner.prune(case.policy("l1"))
    state = network.state_dict()
    assert list(state) == list(case.former)
    assert all(torch.equal(state[name], tensor) for name, tensor in case.former.items())
    assert not any(module.training for module in network.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


def test_a_pruned_network_shares_no_memory_with_the_dense_one(case: Case) -> None:
    owned = {tensor.data_ptr() for tensor in case.pruner.network.state_dict().values()}
    pruned = case.pruner.prune(case.policy("l1"))
    assert not [name for name, tensor in pruned.state_dict().items() if tensor.data_ptr() in owned]


def test_layers_say_the_size_they_have(case: Case) -> None:
    """What a module says of itself is what an exporter reads."""
    for module in case.pruner.prune(case.policy("l1")).modules():
        match module:
            case nn.Conv2d():
                said = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
                assert said == tuple(module.weight.shape)
            case nn.Linear():
                assert (module.out_features, module.in_features) == tuple(module.weight.shape)
            case nn.BatchNorm2d() | nn.BatchNorm1d():
                assert {len(module.weight), len(module.bias), len(module.running_mean), len(module.running_var)} == {
                    module.num_features
                }
            case nn.LayerNorm():
                assert module.normalized_shape == tuple(module.weight.shape)
            case nn.Embedding():
                assert (module.num_embeddings, module.embedding_dim) == tuple(module.weight.shape)
            case nn.RNNBase():
                assert (module.hidden_size, module.input_size) == (
                    module.weight_hh_l0.shape[1],
                    module.weight_ih_l0.shape[1],
                )


def test_an_empty_policy_prunes_nothing(case: Case) -> None:
    assert torch.equal(
        outputs(case.pruner.prune(PruningPolicy()), case.inputs), outputs(case.pruner.network, case.inputs)
    )
