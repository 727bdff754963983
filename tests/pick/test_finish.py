"""A picked folder: loads back bit-equal and trainable, without pickle, at the cost on its card."""

from __future__ import annotations

import json
import pickletools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cards import finish_to_json
from tiny import stored_trials, write_study
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import autoprune
import autoprune.pick.finish
from autoprune.cli.read_request import read_request
from autoprune.core.budget import Budget
from autoprune.errors import ModelError, UnknownNameError, UsageError
from autoprune.export.picked_files import ARCHITECTURE, OLD_ARCHITECTURE, WEIGHTS
from autoprune.export.saved_network import load_compressed, weights_content
from autoprune.loggers.console import PlainDisplay
from autoprune.models.load_weights import load_weights
from autoprune.search.session import run_search
from autoprune.search.setup.from_spec import finetune_settings
from autoprune.search.setup.prepare_study import prepare_study
from autoprune.study.folder import StudyFolder
from autoprune.study.view import open_view

pytestmark = pytest.mark.usefixtures("checks_in_this_process")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def quiet() -> PlainDisplay:
    from rich.console import Console

    return PlainDisplay(Console(quiet=True))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_study(tmp_path_factory.mktemp("picked") / "studies", trials=2)
    request = read_request(str(folder), folder.parent, {})
    run_search(request.spec, StudyFolder(folder), quiet())
    return folder


@pytest.fixture(scope="module")
def picked(study: Path) -> tuple[Path, dict[str, Any]]:
    view = open_view(study)
    card, folder = finish_to_json(view, view.trials[:1], view.budget, lambda message: None)
    return folder, card


@pytest.fixture
def copied(picked: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """Return a copy of the picked folder, to be damaged."""
    return shutil.copytree(picked[0], tmp_path / "copy")


IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_the_network_is_the_one_that_was_saved_to_the_last_bit(picked: tuple[Path, dict[str, Any]]) -> None:
    from safetensors.torch import load_file

    network = autoprune.load(picked[0], trust_code=True)
    state, saved = network.state_dict(), load_file(picked[0] / WEIGHTS)
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in saved.items())
    assert not network.training
    with torch.no_grad():
        one, other = network(IMAGES), autoprune.load(str(picked[0]), trust_code=True)(IMAGES)
    assert torch.equal(one, other)


def test_the_card_s_validation_score_is_the_loaded_network_s(study: Path, picked: tuple[Path, dict[str, Any]]) -> None:
    """The oracle is a plain loop over the images that the user's function returns."""
    folder, card = picked
    bench = prepare_study(open_view(study).spec, StudyFolder(study), lambda message: None)
    network = autoprune.load(folder, trust_code=True)
    for split, recorded in (("val", card["validation"]), ("test", card["test"])):
        hits = total = 0
        for batch in bench.task.eval_batches(split, 7, bench.device):
            with torch.no_grad():
                hits += int((network(batch.images).argmax(1) == batch.labels).sum())
            total += len(batch)
        assert hits / total == recorded["values"]["accuracy"]
        assert recorded["stderr"]["accuracy"] > 0


def test_a_larger_rate_at_which_training_fails_gives_way_to_the_trials(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, said = open_view(Path(shutil.copytree(study, tmp_path / "study"))), list[str]()
    usual = finetune_settings(view.spec).lr
    monkeypatch.setattr(autoprune.pick.finish, "finish_rate", lambda study, epochs: 1e18)
    card, _ = finish_to_json(view, view.trials[:1], view.budget, said.append, force=True)
    assert f"peak learning rate: 1e+18 (pick.lr), as the fine-tune is long; trials have {usual:g}" in said
    assert [line for line in said if f"the fine-tune begins again with {usual:g}" in line]
    assert card["finetune"]["lr"] == usual
    assert card["validation"]["values"]["loss"] < 10


def test_it_can_be_trained_on(picked: tuple[Path, dict[str, Any]]) -> None:
    network = autoprune.load(picked[0], trust_code=True).train()
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    nn.functional.cross_entropy(network(IMAGES), torch.tensor([0, 1, 2, 0, 1])).backward()
    assert all(parameter.grad is not None and parameter.requires_grad for parameter in network.parameters())
    optimizer.step()
    assert all(not torch.equal(before[name], parameter) for name, parameter in network.named_parameters())


def test_its_counted_cost_is_the_card_s(picked: tuple[Path, dict[str, Any]]) -> None:
    folder, card = picked
    network = autoprune.load(folder, trust_code=True)
    with FlopCounterMode(display=False) as counter:
        network(IMAGES[:1])
    values = card["validation"]["values"]
    assert counter.get_total_flops() / 2 == round(1e6 * values["mflops"])
    assert sum(parameter.numel() for parameter in network.parameters()) == round(1e6 * values["mparams"])
    stored = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    assert stored == round(1e6 * values["size_mb"])
    assert values["mflops"] <= float(card["budget"]["mflops"])
    dense = card["dense"]["validation"]["values"]
    assert values["mflops"] < dense["mflops"]


def test_the_module_s_own_attributes_say_its_new_width(picked: tuple[Path, dict[str, Any]]) -> None:
    network = autoprune.load(picked[0], trust_code=True)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert len(module.weight) == len(module.running_mean) == module.num_features
    widths = [module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert widths != [8, 16, 8]


def test_there_is_no_pickle_in_the_folder(picked: tuple[Path, dict[str, Any]]) -> None:
    names = sorted(path.name for path in picked[0].iterdir())
    assert names == ["architecture.json", "card.json", "card.md", "model.safetensors", "policy.json"]
    for path in picked[0].iterdir():
        content = path.read_bytes()
        assert not content.startswith((b"PK", b"\x80")), f"{path.name} looks like a zip or a pickle"
        with pytest.raises(ValueError, match=r".*"):
            list(pickletools.genops(content))


def test_an_architecture_given_by_hand_serves_where_its_code_is_missing(
    picked: tuple[Path, dict[str, Any]], copied: Path
) -> None:
    stored = json.loads((copied / ARCHITECTURE).read_text())
    source = stored["architecture"]["source"]
    stored["architecture"]["source"] = "gone.py:net"
    (copied / ARCHITECTURE).write_text(json.dumps(stored))
    with pytest.raises(UsageError, match=r"gone\.py"):
        autoprune.load(copied, trust_code=True)
    from autoprune.core.registry import load_object

    dense = load_object(source)(num_classes=3, in_channels=1)
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    network = autoprune.load(copied, network=dense)
    with torch.no_grad():
        assert torch.equal(network(IMAGES), autoprune.load(picked[0], trust_code=True)(IMAGES))
    assert all(torch.equal(dense.state_dict()[name], tensor) for name, tensor in before.items())


def test_an_unknown_architecture_is_named(copied: Path) -> None:
    stored = json.loads((copied / ARCHITECTURE).read_text())
    stored["architecture"]["source"] = "resnet2000"
    (copied / ARCHITECTURE).write_text(json.dumps(stored))
    with pytest.raises(UnknownNameError, match="resnet20"):
        autoprune.load(copied, trust_code=True)


def test_the_wrong_architecture_is_refused(picked: tuple[Path, dict[str, Any]]) -> None:
    with pytest.raises(ModelError, match=r"another network|do not fit"):
        autoprune.load(picked[0], network=nn.Sequential(nn.Conv2d(1, 8, 3)))


def test_a_network_for_rows_is_rebuilt_from_its_shape(tmp_path: Path) -> None:
    """A perceptron is as wide as its rows, which only the stored shape knows."""
    from autoprune.core.policy import PruningPolicy
    from autoprune.export.architecture import Architecture, PrunedArchitecture
    from autoprune.export.saved_network import save_network
    from autoprune.models.build import build_model

    network = build_model("mlp", num_classes=2, input_shape=(30,), seed=3).eval()
    architecture = PrunedArchitecture.of(network, {}, Architecture("mlp", 2, (30,)), PruningPolicy({}), {})
    save_network(tmp_path, network, architecture)
    rows = torch.rand(4, 30, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(autoprune.load(tmp_path, trust_code=True)(rows), network(rows))


def test_a_weight_that_two_modules_share_is_stored_under_both_names(tmp_path: Path) -> None:
    def tied(seed: int) -> nn.Sequential:
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        network[2].weight = network[0].weight
        return network

    one, other = tied(1), tied(2)
    (tmp_path / WEIGHTS).write_bytes(weights_content(one))
    load_weights(other, tmp_path / WEIGHTS)
    assert other[2].weight is other[0].weight
    assert torch.equal(other(torch.ones(2, 4)), one(torch.ones(2, 4)))


def test_a_folder_that_is_no_picked_network_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a picked network"):
        autoprune.load(tmp_path, trust_code=True)
    with pytest.raises(ModelError, match="not a picked network"):
        autoprune.load(tmp_path / "nothing", trust_code=True)


def _cut_short(text: str) -> str:
    return text[: len(text) // 2]


def _without(key: str) -> Any:
    def damage(text: str) -> str:
        stored = json.loads(text)
        del stored[key]
        return json.dumps(stored)

    return damage


def _with(key: str, value: Any) -> Any:
    return lambda text: json.dumps({**json.loads(text), key: value})


DAMAGES = {
    "empty": lambda text: "",
    "cut short": _cut_short,
    "a list": lambda text: "[]",
    "a number": lambda text: "3",
    "no format": _without("format"),
    "another format": _with("format", 99),
    "no architecture": _without("architecture"),
    "architecture is text": _with("architecture", "resnet20"),
    "architecture lacks its shape": _with("architecture", {"source": "resnet20", "num_classes": 3}),
    "an empty shape": _with("architecture", {"source": "resnet20", "num_classes": 3, "input_shape": []}),
    "a shape of nothing": _with("architecture", {"source": "resnet20", "num_classes": 3, "input_shape": [0, 8, 8]}),
    "a shape in words": _with("architecture", {"source": "resnet20", "num_classes": 3, "input_shape": ["a"]}),
    "no kept channels": _without("kept"),
    "kept is a list": _with("kept", [1, 2]),
    "kept is nonsense": _with("kept", {"conv1": {"out": "abc"}}),
    "kept beyond the width": _with("kept", {"conv1": {"out": [0, 999]}}),
    "kept out of order": _with("kept", {"conv1": {"out": [0, 999, 3]}}),
    "kept of no module": _with("kept", {"conv99": {"out": [0]}}),
    "kept of a module without channels": _with("kept", {"": {"out": [0]}}),
    "kept nothing": _with("kept", {"conv1": {"out": []}}),
    "kept everything": _with("kept", {}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_architecture_is_a_model_error(copied: Path, damage: Any) -> None:
    (copied / ARCHITECTURE).write_text(damage((copied / ARCHITECTURE).read_text()))
    with pytest.raises(ModelError) as caught:
        autoprune.load(copied, trust_code=True)
    assert len(str(caught.value)) > 30


def test_a_folder_with_the_older_name_of_its_architecture_loads(copied: Path) -> None:
    (copied / ARCHITECTURE).rename(copied / OLD_ARCHITECTURE)
    with torch.no_grad():
        expected = autoprune.load(copied, trust_code=True)(IMAGES)
    stored = json.loads((copied / OLD_ARCHITECTURE).read_text())
    for name in ("sizes", "needs_autoprune"):  # the first folders had neither
        del stored[name]
    (copied / OLD_ARCHITECTURE).write_text(json.dumps(stored))
    with torch.no_grad():
        assert torch.equal(autoprune.load(copied, trust_code=True)(IMAGES), expected)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut short", "garbage", "another network"])
def test_damaged_weights_are_a_model_error(copied: Path, damage: str) -> None:
    weights = copied / WEIGHTS
    content = weights.read_bytes()
    match damage:
        case "missing":
            weights.unlink()
        case "empty":
            weights.write_bytes(b"")
        case "cut short":
            weights.write_bytes(content[: len(content) // 2])
        case "garbage":
            weights.write_bytes(b"\xff" * 1000)
        case "another network":
            from safetensors.torch import save_file

            save_file({"weight": torch.zeros(3)}, weights)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        autoprune.load(copied, trust_code=True)


def test_picking_does_not_touch_the_study(study: Path, picked: tuple[Path, dict[str, Any]]) -> None:
    assert [trial["number"] for trial in stored_trials(study)] == [0, 1]
    assert picked[0] == study / "picked" / "0"
    assert not [path for path in (study / "picked").iterdir() if path.name.startswith(".")]


def test_a_folder_from_an_earlier_pick_is_kept_unless_forced(study: Path, picked: tuple[Path, dict[str, Any]]) -> None:
    view = open_view(study)
    before = (picked[0] / WEIGHTS).read_bytes()
    with pytest.raises(UsageError, match="--force"):
        finish_to_json(view, view.trials[:1], Budget(), lambda message: None)
    assert (picked[0] / WEIGHTS).read_bytes() == before
    finish_to_json(view, view.trials[:1], view.budget, lambda message: None, force=True)
    assert (picked[0] / WEIGHTS).read_bytes() == before, "the same trial and fine-tune give the same weights"


def test_a_longer_fine_tune_is_written_on_the_card(study: Path) -> None:
    view = open_view(study)
    card, folder = finish_to_json(view, view.trials[1:2], view.budget, lambda message: None, epochs=2)
    assert card["finetune"]["epochs"] == 2
    assert json.loads((folder / "card.json").read_text()) == card
    text = (folder / "card.md").read_text()
    for part in ("accuracy on test", "±", "one FLOP = one multiply–accumulate", "budget: mflops", "autoprune.load"):
        assert part in text


def test_a_compressed_network_needs_a_gpu_and_a_cpu_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"2:4 masks save no time here: .* this is a CPU"):
        load_compressed(tmp_path, device="cpu")
