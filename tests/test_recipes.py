"""Every recipe that brings code of its own goes from end to end: search, SIGKILL, resume, report, pick, load.

The sizes of the recipes are cut to a few seconds of training; what they come to is in ``docs/project/benchmarks.md``.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from autoprune.cli.read_request import read_request
from autoprune.core.notify import silent
from autoprune.search.setup.context import StudyContext
from autoprune.search.setup.dense_network import fresh_network
from autoprune.search.setup.from_spec import task_of
from autoprune.study.folder import StudyFolder
from autoprune.testing import check_task
from autoprune.training.device.runtime import Runtime

HERE = Path(__file__).resolve().parent.parent
SHORT = (
    "--no-screening",
    "--trials",
    "2",
    "--dense-epochs",
    "1",
    "--finetune-epochs",
    "0.2",
    "--set",
    "pick.epochs=0.2",
)
QUICK = ("--latency-runtime", "torch", "--set", "latency.blocks=5", "--threads", "1")


@dataclass(frozen=True)
class Recipe:
    """What is expected of a recipe: its metrics, what its network answers with, and libraries that it needs."""

    metrics: tuple[str, ...]
    answers: str
    needs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


RECIPES: Mapping[str, Recipe] = {
    "digits-unet": Recipe(("miou",), "Tensor"),
    "digits-detector": Recipe(("map",), "dict", ("torchmetrics", "pycocotools"), ("--set", "loop.steps_per_epoch=10")),
    "diabetes-mlp": Recipe(("rmse",), "Tensor"),
    "digits-two-heads": Recipe(("accuracy", "rmse"), "dict"),
    "stdlib-text": Recipe(("accuracy",), "SequenceClassifierOutput", ("transformers", "tokenizers")),
    "stdlib-lm": Recipe(("perplexity",), "CausalLMOutputWithPast", ("transformers", "tokenizers")),
    "audiofolder": Recipe(("accuracy",), "Tensor"),
    "ratings-two-tower": Recipe(("rmse",), "Tensor"),
}


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_recipes", HERE / "scripts" / "run_recipes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["run_recipes"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_goes_from_search_to_a_loaded_network(
    name: str, runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPES[name]
    for library in recipe.needs:
        pytest.importorskip(library)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    run = runner.run_recipe(
        name, tmp_path / "studies", (*SHORT, *QUICK, *recipe.options), ("--export", "none"), tmp_path
    )

    assert 1 <= run.trials_before <= 2
    assert run.report["counts"] == {"completed": 2, "over_budget": 0, "stopped": 0, "failed": 0, "untimed": 0}
    assert run.report["sessions"] == 2
    assert tuple(one["name"] for one in run.report["qualities"]) == recipe.metrics
    assert set(recipe.metrics) <= set(run.pick["test"]["values"])
    assert all(check["passed"] for check in run.pick["checks"])
    answer, parameters = run.loaded.split()
    assert answer == recipe.answers
    assert int(parameters) < run.report["dense"]["values"]["mparams"] * 1e6
    assert runner.row_of(run).startswith(f"| `{name}` | {recipe.metrics[0]}")


OF_BUILT_IN_DATA = ("digits-resnet20", "digits-resnet56", "digits-lstm", "digits-vit", "breast-cancer-mlp")


@pytest.mark.parametrize("name", [*RECIPES, *OF_BUILT_IN_DATA])
def test_the_task_of_a_recipe_keeps_its_contract(name: str, runner: ModuleType, tmp_path: Path) -> None:
    for library in RECIPES[name].needs if name in RECIPES else ():
        pytest.importorskip(library)
    _, *data = runner._data_written(name, tmp_path) or ("--data",)
    values = {"data": {"source": data[0]}} if data else {}
    spec = read_request(name, tmp_path / "studies", values).spec
    task = task_of(spec)
    context = StudyContext(spec, task, Runtime(threads=1), StudyFolder(tmp_path / name), silent)
    check_task(task, fresh_network(context, weights=""))


def test_every_recipe_s_task_is_checked() -> None:
    downloads = {"cifar10-resnet20", "cifar10-resnet56", "imagefolder-mobilenetv2"}  # or the user's own files
    assert {*RECIPES, *OF_BUILT_IN_DATA} == {path.parent.name for path in HERE.glob("studies/*/study.toml")} - downloads


def test_two_heads_shift_each_image_on_its_own() -> None:
    path = HERE / "studies" / "digits-two-heads" / "digits_two_heads.py"
    spec = importlib.util.spec_from_file_location("digits_two_heads", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def heights(seed: int | None) -> Tensor:
        """Return where the centre of each digit lies."""
        images = torch.cat([batch[0] for batch in module.batches("train", seed)])[:, 0]
        return (images * torch.arange(16.0)[:, None]).sum((1, 2)) / images.sum((1, 2))

    assert heights(3).std() > 1.2 * heights(None).std()
    assert torch.equal(heights(3), heights(3))
