"""Weights as training programs save them: under keys of their own, with longer names, beside other things."""

import argparse
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from training_toys import same_state, state_of

from autoprune.errors import ModelError
from autoprune.models.build import build_model
from autoprune.models.load_weights import load_weights
from autoprune.training.device.seeding import seeded

State = dict[str, Tensor]


class Toy(nn.Module):
    """A network with a submodule that one may compile or run in parallel by itself."""

    def __init__(self, seed: int, width: int = 4) -> None:
        super().__init__()
        with seeded(seed):
            self.backbone = nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width))
            self.head = nn.Linear(width, 3)


class Holder(nn.Module):
    """A network that holds another one as its attribute ``module``."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.module = Toy(seed)


def longer(state: Mapping[str, Tensor], prefix: str) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def profiled(state: State) -> State:
    counts = {"total_ops", "total_params", "backbone.total_ops", "backbone.0.total_params"}
    return {**state, **{name: torch.zeros(1, dtype=torch.float64) for name in counts}}


WRAPPED: dict[str, Callable[[State], Any]] = {
    **{key: lambda state, key=key: {key: state, "epoch": 3} for key in ("net", "params", "weights", "network")},
    **{key: lambda state, key=key: {key: state} for key in ("model_ema", "ema", "state_dict_ema", "params_ema")},
    "a key nobody knows": lambda state: {"das_netz": state, "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
    "keys in keys": lambda state: {"checkpoint": {"model": {"state_dict": state}}},
    "compiled": lambda state: longer(state, "_orig_mod."),
    "parallel and compiled": lambda state: longer(state, "module._orig_mod."),
    "compiled and parallel": lambda state: {"model": longer(state, "_orig_mod.module.")},
    "a compiled part": lambda state: {n.replace("backbone.", "backbone._orig_mod."): t for n, t in state.items()},
    "Lightning": lambda state: {"state_dict": longer(state, "model."), "pytorch-lightning_version": "2.4", "epoch": 1},
    "Lightning, compiled": lambda state: {"state_dict": longer(state, "model._orig_mod."), "callbacks": {}},
    "an average": lambda state: {"n_averaged": torch.tensor(5), **longer(state, "module.")},
    "a kept average": lambda state: {"ema": {"n_averaged": torch.tensor(5), **longer(state, "module.")}},
    "profiled": profiled,
    "profiled and parallel": lambda state: {"net": longer(profiled(state), "module.")},
    "a number among the tensors": lambda state: {**state, "epoch": 3},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_what_is_unambiguous_is_loaded_without_a_word(wrap: Callable[[State], Any], tmp_path: Path) -> None:
    trained, fresh, said = Toy(1), Toy(2), list[str]()
    torch.save(wrap(dict(trained.state_dict())), tmp_path / "w.pt")
    load_weights(fresh, tmp_path / "w.pt", said.append)
    assert same_state(state_of(fresh), state_of(trained))
    assert said == []


def test_an_averaged_model_itself(tmp_path: Path) -> None:
    trained, fresh = Toy(1), Toy(2)
    torch.save(AveragedModel(trained).state_dict(), tmp_path / "w.pt")
    load_weights(fresh, tmp_path / "w.pt")
    assert same_state(state_of(fresh), state_of(trained))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."], ids=["its own names", "parallel", "compiled"])
def test_a_network_that_holds_a_module_of_that_name(prefix: str, tmp_path: Path) -> None:
    trained, fresh = Holder(1), Holder(2)
    save_file(longer(trained.state_dict(), prefix), tmp_path / "w.safetensors")
    load_weights(fresh, tmp_path / "w.safetensors")
    assert same_state(state_of(fresh), state_of(trained))


def test_a_wrapped_network_reads_the_weights_of_the_plain_one(tmp_path: Path) -> None:
    trained, fresh = Toy(1), nn.DataParallel(Toy(2))
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    load_weights(fresh, tmp_path / "w.safetensors")
    assert same_state(state_of(fresh.module), state_of(trained))


def test_beside_an_average_the_weights_themselves_are_taken_and_it_is_said(tmp_path: Path) -> None:
    trained, average, fresh, said = Toy(1), Toy(3), Toy(2), list[str]()
    torch.save({"model_ema": average.state_dict(), "model": trained.state_dict()}, tmp_path / "w.pt")
    load_weights(fresh, tmp_path / "w.pt", said.append)
    assert same_state(state_of(fresh), state_of(trained))
    assert len(said) == 1
    assert "under 'model_ema' and 'model'; those under 'model' are loaded" in said[0]


def test_an_average_equal_to_the_weights_needs_no_word(tmp_path: Path) -> None:
    trained, fresh, said = Toy(1), Toy(2), list[str]()
    torch.save({"model": trained.state_dict(), "model_ema": trained.state_dict()}, tmp_path / "w.pt")
    load_weights(fresh, tmp_path / "w.pt", said.append)
    assert said == []


def test_what_a_loss_or_a_metric_saved_beside_is_left_out_and_said(tmp_path: Path) -> None:
    trained, fresh, said = Toy(1), Toy(2), list[str]()
    state = {**longer(trained.state_dict(), "model."), "criterion.weight": torch.ones(3)}
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    load_weights(fresh, tmp_path / "w.pt", said.append)
    assert same_state(state_of(fresh), state_of(trained))
    assert said == [
        f"1 tensors in {str(tmp_path / 'w.pt')!r} have no place in this network and are left out: criterion.weight"
    ]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda one, other: {"student": one, "teacher": other},
        lambda one, other: {"state_dict": {**longer(one, "student."), **longer(other, "teacher.")}},
        lambda one, other: {"ema": one, "swa": other},
    ],
    ids=["keys", "prefixes", "two averages"],
)
def test_several_that_fit_are_listed_and_none_is_loaded(wrap: Callable[[State, State], Any], tmp_path: Path) -> None:
    fresh = Toy(2)
    before = state_of(fresh)
    torch.save(wrap(Toy(1).state_dict(), Toy(3).state_dict()), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"several weights that fit this network, under '.*(student|ema).*' and '"):
        load_weights(fresh, tmp_path / "w.pt")
    assert same_state(state_of(fresh), before)


def test_what_does_not_fit_lists_the_keys_and_what_differs(tmp_path: Path) -> None:
    torch.save({"net": longer(Toy(1, width=5).state_dict(), "module."), "epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"of another shape \(backbone.*keys 'net' \(9 tensors\), 'epoch' \(int\)"):
        load_weights(Toy(2), tmp_path / "w.pt")


def test_tensors_that_the_network_lacks_are_no_bookkeeping(tmp_path: Path) -> None:
    save_file({**Toy(1).state_dict(), "neck.weight": torch.ones(2)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"1 unexpected \(neck.weight\)"):
        load_weights(Toy(2), tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("held", "named"),
    [
        ({"args": argparse.Namespace(lr=0.1)}, "argparse.Namespace"),
        ({"best": np.float64(0.9)}, "numpy._core.multiarray.scalar"),
        ({"model": Toy(0)}, "test_checkpoints.Toy"),
        ({"seen": Counter("ab"), "args": argparse.Namespace()}, "argparse.Namespace"),
    ],
    ids=["options", "a NumPy number", "a module", "two"],
)
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "as before PyTorch 1.6"])
def test_a_foreign_class_is_named_and_nobody_is_told_to_unpickle(
    held: dict[str, object], named: str, is_zip: bool, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(
            {"state_dict": Toy(1).state_dict(), **held}, tmp_path / "w.pt", _use_new_zipfile_serialization=is_zip
        )
    with pytest.raises(ModelError, match=named.replace(".", r"\.")) as raised:
        load_weights(Toy(2), tmp_path / "w.pt")
    assert "weights_only" not in str(raised.value)
    assert "safe_globals" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_scripted_program_is_not_run_and_is_called_by_its_name(tmp_path: Path) -> None:
    torch.jit.trace(nn.ReLU(), torch.ones(1, 2)).save(str(tmp_path / "w.pt"))
    with pytest.raises(ModelError, match="is a TorchScript program") as raised:
        load_weights(Toy(2), tmp_path / "w.pt")
    assert "weights_only" not in str(raised.value)


def test_a_choice_is_said_through_build_model_and_is_no_new_classifier(tmp_path: Path) -> None:
    source = tmp_path / "net.py"
    source.write_text("from torch import nn\ndef build(): return nn.Linear(2, 3)\n")
    state = {"weight": torch.zeros(3, 2), "bias": torch.zeros(3)}
    torch.save({"net": state, "ema": {**state, "bias": torch.ones(3)}}, tmp_path / "w.pt")
    notes, remarks = list[str](), list[str]()
    options = {"num_classes": 3, "in_channels": 2, "seed": 0, "weights": str(tmp_path / "w.pt")}
    build_model(f"{source}:build", **options, notify=notes.append, remark=remarks.append)  # type: ignore[arg-type]
    assert notes == []
    assert len(remarks) == 1
