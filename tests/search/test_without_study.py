"""Inspecting and pruning from Python, and ``inspect --example``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import autoprune
from autoprune.cli import main
from autoprune.core.policy import GroupPolicy, PruningPolicy
from autoprune.errors import AutopruneError, ModelError, UsageError

CODE = """
import torch
from torch import nn

class Towers(nn.Module):
    def __init__(self, outputs=8):
        super().__init__()
        self.user, self.item = nn.Embedding(50, 16), nn.Embedding(70, 16)
        self.left, self.right = nn.Linear(16, outputs), nn.Linear(16, outputs)

    def forward(self, user, item):
        return {"rating": (self.left(self.user(user)) * self.right(self.item(item))).sum(-1)}

def network():
    print("building")
    return Towers()

def sized(num_classes):
    return Towers(num_classes)

batch = torch.arange(6), torch.arange(6)
def made(): return {"user": torch.arange(4), "item": torch.arange(4)}
def empty(): return {"user": 3}
def failing(): raise RuntimeError("no data today")
"""


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).relu()).relu())


@pytest.fixture
def code(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(CODE)
    return file


@pytest.mark.parametrize("example", ["batch", "made"])
def test_inspect_takes_a_batch_or_a_function_that_returns_one(code: Path, example: str) -> None:
    done = CliRunner(env={"COLUMNS": "160"}).invoke(
        main, ["inspect", f"{code}:network", "--example", f"{code}:{example}", "--json"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {group["name"] for group in found["groups"]} == {"user", "item", "left"}
    assert "int64" in found["inputs"]
    assert "input_shape" not in found


def test_inspect_shows_what_goes_in_and_offers_the_number_of_outputs(code: Path) -> None:
    arguments = ["inspect", f"{code}:sized", "--example", f"{code}:made", "--classes", "5"]
    done = CliRunner(env={"COLUMNS": "160"}).invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "user=int64(4,), item=int64(4,)" in done.stdout.replace("\n", "")
    assert "left" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--example", "{code}:empty"], "gives a dict without a tensor; expected what the network is called with"),
        (["--example", "{code}:failing"], "RuntimeError: no data today"),
        (["--example", "{code}:nothing"], "no attribute"),
        (["--example", "{code}:batch", "--input", "3x8x8"], "give one of them"),
    ],
)
def test_examples_that_are_none_are_one_line(code: Path, options: list[str], said: str) -> None:
    done = CliRunner(env={"COLUMNS": "160"}).invoke(
        main, ["inspect", f"{code}:network", *(each.format(code=code) for each in options)]
    )
    assert done.exit_code != 0
    assert said in done.output
    assert "Traceback" not in done.output


def test_pruning_without_a_study_leaves_the_network_as_it_is() -> None:
    model = Plain()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = autoprune.prune(model, PruningPolicy.uniform(0.5), torch.randn(2, 6))
    assert (small.first.out_features, small.second.out_features, small.head.in_features) == (8, 6, 6)
    assert small.training
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    small(torch.randn(2, 6)).sum().backward()


def test_named_groups_count_more_than_every_group() -> None:
    policy = PruningPolicy({"*": GroupPolicy(0.5, "l1"), "second": GroupPolicy(0.0, "l1")})
    small = autoprune.prune(Plain(), policy, torch.randn(2, 6))
    assert (small.first.out_features, small.second.out_features) == (8, 12)


def test_the_channels_with_the_smallest_scores_go() -> None:
    model = Plain()
    with torch.no_grad():
        model.first.weight[::2] *= 100
    small = autoprune.prune(model, PruningPolicy.uniform(0.5, "l1", names=["first"]), torch.randn(2, 6))
    assert torch.equal(small.first.weight, model.first.weight[::2])


def test_criteria_may_look_at_batches() -> None:
    batches = [(torch.randn(8, 6), torch.randint(3, (8,)))]
    policy = PruningPolicy.uniform(0.5, "taylor")
    assert autoprune.prune(Plain(), policy, torch.randn(2, 6), batches=batches).first.out_features == 8
    with pytest.raises(ModelError, match="taylor need data"):
        autoprune.prune(Plain(), policy, torch.randn(2, 6))


def test_what_a_policy_names_and_a_network_lacks_is_listed() -> None:
    policy = PruningPolicy.uniform(0.5, names=["first", "head", "third"])
    with pytest.raises(ModelError, match=r"lacks: head \(frozen: its channels are the network's output\), third"):
        autoprune.prune(Plain(), policy, torch.randn(2, 6))


def test_patterns_keep_what_they_match() -> None:
    found = autoprune.inspect(Plain(), torch.randn(2, 6), keep=["first"])
    assert [group.name for group in found.groups.cuttable] == ["second"]
    with pytest.raises(AutopruneError, match="matches no layer"):
        autoprune.inspect(Plain(), torch.randn(2, 6), only=["nowhere*"])


def test_the_former_order_of_arguments_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="groups are given as names"):
        PruningPolicy.uniform(["conv1"], 0.5)  # type: ignore[arg-type]


class Ranked(nn.Module):
    """Two inputs of ids, and a dictionary of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item, self.wide, self.head = (
            nn.Embedding(20, 8), nn.Embedding(30, 8), nn.Linear(8, 12), nn.Linear(12, 1),
        )  # fmt: skip

    def forward(self, user: Tensor, item: Tensor) -> dict[str, Tensor]:
        return {"rating": self.head(self.wide(self.user(user) * self.item(item)).relu())[:, 0]}


def rating_loss(output: dict[str, Tensor], labels: Tensor) -> Tensor:
    return nn.functional.mse_loss(output["rating"], labels)


@pytest.mark.parametrize("criterion", ["taylor", "fisher", "activation", "apoz", "ablation", "l2"])
def test_criteria_look_at_inputs_of_any_structure_by_a_loss_of_ones_own(criterion: str) -> None:
    torch.manual_seed(0)
    model = Ranked()
    with torch.no_grad():
        model.head.weight[0, ::2] = 0  # what nothing looks at goes, by every criterion of what matters
    batches = [
        ({"user": torch.randint(20, (40,)), "item": torch.randint(30, (40,))}, torch.rand(40)),
        ({"user": torch.randint(20, (3,)), "item": torch.randint(30, (3,))}, torch.rand(3)),
    ]
    policy = PruningPolicy.uniform(0.5, criterion, names=["wide"])
    small = autoprune.prune(model, policy, batches[0][0], batches=batches, loss=rating_loss)
    assert small.wide.out_features == 6
    if criterion in ("taylor", "fisher"):
        assert torch.equal(small.wide.weight, model.wide.weight[1::2])


def test_batches_let_the_weights_that_stay_make_up_for_those_that_go() -> None:
    torch.manual_seed(0)
    model = Ranked().eval()
    batches = [({"user": torch.randint(20, (64,)), "item": torch.randint(30, (64,))}, torch.rand(64)) for _ in range(4)]
    policy = PruningPolicy.uniform(0.5, "l2", names=["wide"])
    former = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def error(**chosen: Any) -> float:
        small = autoprune.prune(model, policy, batches[0][0], **chosen)
        with torch.no_grad():
            return sum(float((small(**x)["rating"] - model(**x)["rating"]).square().mean()) for x, _ in batches)

    assert error(batches=batches) < 0.7 * error(batches=batches, compensate=False)
    assert error(batches=batches, compensate=False) == error()  # nothing to look at: the weights are as they were
    assert all(tensor.equal(former[name]) for name, tensor in model.state_dict().items())


def test_synflow_says_that_it_cannot_feed_ones_to_such_inputs() -> None:
    inputs = {"user": torch.randint(20, (4,)), "item": torch.randint(30, (4,))}
    with pytest.raises(ModelError, match="synflow feeds one input of ones, and this network reads inputs user=int64"):
        autoprune.prune(Ranked(), PruningPolicy.uniform(0.5, "synflow"), inputs, batches=[(inputs, torch.rand(4))])


def test_what_is_no_network_and_no_policy_is_told() -> None:
    network, rows, half = Plain(), torch.zeros(2, 6), PruningPolicy.uniform(0.5)
    for model in ("torchvision:resnet18", 3):
        with pytest.raises(UsageError, match=r"expected a torch\.nn\.Module"):
            autoprune.inspect(model, rows)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=r"expected a torch\.nn\.Module"):
            autoprune.prune(model, half, rows)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"policy is 0\.5; expected a PruningPolicy"):
        autoprune.prune(network, 0.5, rows)  # type: ignore[arg-type]


def test_a_pattern_needs_no_list_around_it() -> None:
    network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 2))
    kept = autoprune.inspect(network, torch.zeros(2, 8), keep="0")
    assert [group.name for group in kept.groups.cuttable] == ["2"]


def test_a_loss_that_does_not_fit_names_itself() -> None:
    network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    batch = (torch.zeros(2, 8), torch.zeros(2).long())
    with pytest.raises(ModelError, match=r"the loss that the importance criteria taylor need fails.*give loss="):
        autoprune.prune(
            network, PruningPolicy.uniform(0.5, "taylor"), batch[0], batches=[batch], loss=lambda output, _: output["x"]
        )
