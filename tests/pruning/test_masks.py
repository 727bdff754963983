"""Masks zero exactly what they promise, the lowest scores go, and zeros stay zero however long one trains."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.core.counts import masked_zeros
from autoprune.core.policy import MASK_PATTERNS, MaskPolicy
from autoprune.core.space import MaskSpace
from autoprune.errors import ModelError, UnknownNameError
from autoprune.pruning.masks.build_masks import build_masks
from autoprune.pruning.masks.maskable_layers import maskable_layers
from autoprune.pruning.masks.two_of_four_kernels import can_accelerate, to_semi_structured
from autoprune.pruning.masks.weight_masks import Masks
from autoprune.pruning.masks.weight_scores import CRITERIA, Batches


class Small(nn.Module):
    """A dense, a grouped and a depthwise convolution, and two linear layers; rows of 27, 36, 9, 16 and 10 weights."""

    def __init__(self, hidden: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 16, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.hidden = nn.Linear(16, hidden)
        self.head = nn.Linear(hidden, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.norm(self.conv(x)).relu()).relu()
        return self.head(self.hidden(self.depthwise(x).mean((2, 3))).relu())


LAYERS = ("conv", "grouped", "depthwise", "hidden", "head")


@pytest.fixture
def network() -> Small:
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(6, 3, 8, 8, generator=generator), torch.randint(0, 4, (6,), generator=generator)) for _ in range(2)
    ]


def everywhere(pattern: str, criterion: str, sparsity: float = 0.5) -> MaskPolicy:
    return MaskPolicy(pattern, criterion, dict.fromkeys(LAYERS, sparsity))


def scores_of(network: nn.Module, criterion: str, layer: str, batches: Batches) -> Tensor:
    return CRITERIA[criterion](network, [layer], batches)[layer]


def linear(weight: Tensor) -> nn.Sequential:
    """Return one linear layer with these weights, named ``0``."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight.clone())
    return nn.Sequential(layer)


matrices = st.tuples(st.integers(1, 6), st.integers(1, 12)).flatmap(
    lambda shape: st.lists(
        st.lists(st.integers(-3, 3), min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0]
    ).map(lambda rows: torch.tensor(rows, dtype=torch.float32))
)  # small integers, so that there are many ties


# how many, and which


@given(matrices, st.integers(0, 63))
def test_exactly_the_promised_number_of_lowest_weights_goes(weight: Tensor, step: int) -> None:
    keep = build_masks(linear(weight), MaskPolicy("weight", "magnitude", {"0": step / 64})).tensors.get("0.weight")
    zeros = masked_zeros(weight.numel(), 64 - step)
    if keep is None:
        assert step == 0
        return
    assert int((~keep).sum()) == zeros
    expected = sorted(range(weight.numel()), key=lambda i: (abs(weight.flatten()[i].item()), i))[:zeros]
    assert (~keep).flatten().nonzero().flatten().tolist() == sorted(expected)  # of ties the lower index goes first


@given(matrices, st.integers(1, 63))
def test_wanda_compares_within_rows_of_nearly_equal_share(weight: Tensor, step: int) -> None:
    images = torch.linspace(0.5, 2, weight.shape[1]).repeat(3, 1)
    batches = [(images, torch.zeros(3, dtype=torch.long))]
    network = linear(weight)
    keep = build_masks(network, MaskPolicy("weight", "wanda", {"0": step / 64}), batches).tensors["0.weight"]
    zeros = (~keep).sum(1)
    assert int(zeros.sum()) == masked_zeros(weight.numel(), 64 - step)
    assert int(zeros.max() - zeros.min()) <= 1
    for row, kept in zip(scores_of(network, "wanda", "0", batches), keep, strict=True):
        assert kept.all() or not kept.any() or row[kept].min() >= row[~kept].max()


@given(matrices.filter(lambda weight: weight.shape[1] % 4 == 0), st.sampled_from(["magnitude", "wanda"]))
def test_two_of_every_four_along_a_row_go(weight: Tensor, criterion: str) -> None:
    batches = [(torch.linspace(0.5, 2, weight.shape[1]).repeat(3, 1), torch.zeros(3, dtype=torch.long))]
    network = linear(weight)
    keep = build_masks(network, MaskPolicy("2:4", criterion, {"0": 0.5}), batches).tensors["0.weight"].reshape(-1, 4)
    scores = scores_of(network, criterion, "0", batches).reshape(-1, 4)
    assert (keep.sum(1) == 2).all()
    for four, kept in zip(scores, keep, strict=True):
        assert four[kept].min() >= four[~kept].max()
        assert (~kept).nonzero().flatten().tolist() == sorted(sorted(range(4), key=lambda i: (four[i].item(), i))[:2])


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("sparsity", [1 / 64, 0.5, 57 / 64])
def test_every_kind_of_layer_loses_exactly_its_share(
    network: Small, batches: Batches, criterion: str, sparsity: float
) -> None:
    masks = build_masks(network, everywhere("weight", criterion, sparsity), batches)
    assert masks.left_dense == {}
    units = round(64 * (1 - sparsity))
    for layer in LAYERS:
        weight = network.get_parameter(f"{layer}.weight")
        keep = masks.tensors[f"{layer}.weight"]
        assert keep.shape == weight.shape
        assert masks.zeros()[f"{layer}.weight"] == int((~keep).sum()) == masked_zeros(weight.numel(), units)
        if criterion != "wanda":
            scores = scores_of(network, criterion, layer, batches)
            assert not (~keep).any() or scores[keep].min() >= scores[~keep].max()


@pytest.mark.parametrize("pattern", MASK_PATTERNS)
@given(sparsity=st.floats(0, 1, exclude_max=True))
def test_any_sparsity_means_the_units_that_the_space_counts(pattern: str, sparsity: float) -> None:
    weight = torch.arange(128.0).reshape(8, 16)
    masks = build_masks(linear(weight), MaskPolicy(pattern, "magnitude", {"0": sparsity}))
    units = MaskSpace(pattern, ("magnitude",), ("0",), 1.0).units
    kept = min(units, key=lambda one: (abs(one - 64 * (1 - sparsity)), -one))  # SearchSpace.nearest
    assert sum(masks.zeros().values()) == masked_zeros(128, kept)


# criteria


def test_gradient_is_the_mean_of_weight_times_slope(network: Small, batches: Batches) -> None:
    expected = torch.zeros_like(network.hidden.weight)
    for images, labels in batches:
        (slope,) = torch.autograd.grad(F.cross_entropy(network(images), labels), network.hidden.weight)
        expected += (network.hidden.weight * slope).abs() / len(batches)
    assert torch.allclose(scores_of(network, "gradient", "hidden", batches), expected)


def test_wanda_weighs_by_the_norm_of_what_a_layer_reads(network: Small, batches: Batches) -> None:
    images = torch.cat([images for images, _ in batches])
    with torch.no_grad():
        read = network.norm(network.conv(images)).relu()
        deep = network.depthwise(network.grouped(read).relu()).mean((2, 3))
    per_channel = read.square().sum((0, 2, 3)).sqrt()
    grouped, hidden = network.grouped.weight.abs(), network.hidden.weight.abs()
    first = grouped[:8] * per_channel[:4].view(1, 4, 1, 1)  # outputs 0–7 read channels 0–3
    last = grouped[8:] * per_channel[4:].view(1, 4, 1, 1)
    assert torch.allclose(scores_of(network, "wanda", "grouped", batches), torch.cat([first, last]), rtol=1e-4)
    assert torch.allclose(scores_of(network, "wanda", "hidden", batches), hidden * deep.square().sum(0).sqrt())


@pytest.mark.parametrize("criterion", ["gradient", "wanda"])
@pytest.mark.parametrize("nothing", [None, []])
def test_a_criterion_without_its_data_says_what_to_do(network: Small, criterion: str, nothing: Batches | None) -> None:
    with pytest.raises(ModelError, match=f"'{criterion}' needs data.*raise space.calibration_images.*'magnitude'"):
        build_masks(network, everywhere("weight", criterion), nothing)
    assert build_masks(network, everywhere("weight", criterion, 0.0), nothing).tensors == {}


def test_an_unknown_criterion_is_named_with_the_nearest(network: Small) -> None:
    with pytest.raises(UnknownNameError, match="no mask criterion named 'magnitud'; did you mean 'magnitude'"):
        build_masks(network, everywhere("weight", "magnitud"))


def test_scores_that_are_not_finite_are_refused(network: Small) -> None:
    with torch.no_grad():
        network.hidden.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="'magnitude' gave NaN or infinite scores for layer 'hidden'"):
        build_masks(network, everywhere("weight", "magnitude"))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_building_leaves_the_network_untouched(network: Small, batches: Batches, criterion: str) -> None:
    network.train()
    before = copy.deepcopy(network.state_dict())
    build_masks(network, everywhere("weight", criterion), batches)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(not module._forward_pre_hooks for module in network.modules())


# which layers


def test_what_cannot_be_masked_is_left_with_its_reason(network: Small) -> None:
    found = maskable_layers(network, "2:4", exclude_outputs=["head"])
    assert found.layers == ("grouped", "hidden")
    assert found.left == {
        "conv": "its rows hold 27 weights, which is not a multiple of 4",
        "norm": "masks are for convolutions and linear layers, and this is a BatchNorm2d",
        "depthwise": "its rows hold 9 weights, which is not a multiple of 4",
        "head": "it makes the network's output",
    }
    assert maskable_layers(network, "weight").layers == LAYERS


def test_shared_and_computed_and_transposed_weights_stay_dense() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.ConvTranspose1d(4, 4, 3))
    network[1].weight = network[0].weight
    nn.utils.parametrizations.weight_norm(network[2])
    left = maskable_layers(network, "weight").left
    assert left["0"] == left["1"] == "its weight is shared with another module"
    assert left["2"] == "its weight is computed from other parameters"
    assert "transposed" in left["3"]
    assert not maskable_layers(network, "weight").layers


def test_the_remaining_network_decides_which_rows_allow_a_pattern() -> None:
    policy = MaskPolicy("2:4", "magnitude", {"hidden": 0.5, "head": 0.5, "gone.with.its.block": 0.5})
    wide, cut = build_masks(Small(12), policy), build_masks(Small(10), policy)
    assert (set(wide.tensors), wide.left_dense) == ({"hidden.weight", "head.weight"}, {})
    assert set(cut.tensors) == {"hidden.weight"}
    assert cut.left_dense == {"head": "its rows hold 10 weights, which is not a multiple of 4"}
    assert cut.tensors["hidden.weight"].shape == (10, 16)


def test_a_layer_that_no_batch_went_through_is_left_dense_by_wanda(network: Small, batches: Batches) -> None:
    network.unused = nn.Linear(4, 4)
    masks = build_masks(network, MaskPolicy("weight", "wanda", {"unused": 0.5, "head": 0.5}), batches)
    assert set(masks.tensors) == {"head.weight"}
    assert masks.left_dense == {"unused": "the calibration batches never went through it"}


# zeros stay


def test_applied_masks_zero_what_they_name_and_nothing_else(network: Small) -> None:
    before = copy.deepcopy(network.state_dict())
    masks = build_masks(network, everywhere("weight", "magnitude"))
    masks.apply(network)
    for name, value in network.state_dict().items():
        keep = masks.tensors.get(name, torch.ones_like(value, dtype=torch.bool))
        assert torch.equal(value, before[name] * keep)
    zeros = sum(int((parameter == 0).sum()) for parameter in network.parameters())
    biases_born_zero = int((network.norm.bias == 0).sum())
    total = sum(parameter.numel() for parameter in network.parameters())
    assert masks.nonzero(network) == total - (zeros - biases_born_zero)


def train(network: nn.Module, optimizer: torch.optim.Optimizer, batches: Sequence[tuple[Tensor, Tensor]]) -> None:
    for images, labels in batches:
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()


@pytest.mark.parametrize("pattern", MASK_PATTERNS)
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_masked_weights_stay_zero_under_momentum_and_weight_decay(
    network: Small, batches: Batches, pattern: str, kind: str
) -> None:
    network.train()
    optimizer: torch.optim.Optimizer
    if kind == "sgd":
        optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
    else:
        optimizer = torch.optim.AdamW(network.parameters(), 0.01)
    train(network, optimizer, batches)  # momentum that still pulls at the weights that go
    masks = build_masks(network, everywhere(pattern, "magnitude"))
    handle = masks.enforce(network, optimizer)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    for _ in range(3):
        for path, keep in masks.tensors.items():
            assert (network.get_parameter(path)[~keep] == 0).all()
        train(network, optimizer, batches)
    for path, keep in masks.tensors.items():
        weight = network.get_parameter(path).detach()
        assert (weight[~keep] == 0).all()
        assert (weight[keep] != before[path][keep]).any()
    handle.remove()
    train(network, optimizer, batches)
    assert any((network.get_parameter(path)[~keep] != 0).any() for path, keep in masks.tensors.items())


def test_masks_cross_safetensors_unchanged(network: Small) -> None:
    masks = build_masks(network, everywhere("2:4", "magnitude"))
    back = Masks.from_state(load(save(masks.to_state())), masks.left_dense)
    bytes_ = Masks.from_state({path: keep.to(torch.uint8) for path, keep in masks.to_state().items()})
    assert back.left_dense == masks.left_dense
    for path, keep in masks.tensors.items():
        assert torch.equal(back.tensors[path], keep)
        assert torch.equal(bytes_.tensors[path], keep)
    with pytest.raises(ModelError, match=r"'conv\.weight' is torch\.float32; expected bool or uint8"):
        Masks.from_state({"conv.weight": torch.zeros(2)})


def test_masks_of_another_network_are_refused_before_anything_changes(network: Small) -> None:
    masks = build_masks(Small(12), MaskPolicy("weight", "magnitude", {"conv": 0.5, "hidden": 0.5}))
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ModelError, match=r"'hidden.weight' has shape \(12, 16\) and the network \(10, 16\)"):
        masks.apply(network)
    with pytest.raises(ModelError, match="no such parameter"):
        masks.enforce(nn.Sequential(nn.Linear(2, 2)), torch.optim.SGD(network.parameters(), 0.1))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


# kernels


def test_a_cpu_is_refused_in_words(network: Small) -> None:
    able, sentence = can_accelerate("cpu")
    assert not able
    assert sentence.endswith("need a CUDA GPU of compute capability 8.0 or newer, and this is a CPU")
    with pytest.raises(ModelError) as refusal:
        to_semi_structured(network, build_masks(network, everywhere("2:4", "magnitude")))
    assert str(refusal.value) == sentence


def test_other_devices_are_refused_without_being_there() -> None:
    assert "this is 'mps'" in can_accelerate("mps")[1]
    if not torch.cuda.is_available():
        assert can_accelerate("cuda")[0] is False


@pytest.mark.parametrize(
    ("name", "capability", "library", "able"),
    [("V100", (7, 0), True, False), ("A100", (8, 0), True, True), ("A100", (8, 0), False, False)],
)
def test_a_gpu_is_judged_by_its_capability(
    monkeypatch: pytest.MonkeyPatch, name: str, capability: tuple[int, int], library: bool, able: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(torch.backends.cusparselt, "is_available", lambda: library)
    found, sentence = can_accelerate("cuda:0")
    assert found is able
    assert f"{name} (compute capability {capability[0]}.{capability[1]})" in sentence


def test_only_half_precision_linear_layers_of_even_shapes_are_compressed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The compression itself needs a GPU and is replaced; what is chosen, and what is kept, is not."""

    def compress(weight: Tensor) -> Tensor:
        warnings.warn("a prototype", UserWarning, stacklevel=1)
        return weight + 0

    monkeypatch.setattr("autoprune.pruning.masks.two_of_four_kernels.can_accelerate", lambda device: (True, ""))
    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", compress)
    network = nn.Sequential(
        nn.Linear(32, 16).half(), nn.Linear(32, 16), nn.Linear(32, 8).half(), nn.Conv1d(8, 16, 2).half()
    )
    masks = build_masks(network, MaskPolicy("2:4", "magnitude", dict.fromkeys("0123", 0.5)))
    done = to_semi_structured(network, masks)
    assert done.layers == ("0",)
    assert done.left == {
        "1": "its weight is torch.float32; the 2:4 kernels multiply float16 and bfloat16",
        "2": "its shape is (8, 32); the 2:4 kernels need multiples of 16",
        "3": "the 2:4 kernels are for linear layers",
    }
    assert not network[0].weight.requires_grad
    assert torch.equal(network[0].weight == 0, ~masks.tensors["0.weight"])
    other = build_masks(network[:1], MaskPolicy("weight", "magnitude", {"0": 1 / 64}))
    assert to_semi_structured(network, other).left == {"0": "its mask is not 2:4"}
