"""What recipes of a finish are worth: one pruned network, fine-tuned for as many examples by each, on several seeds.

    python scripts/bench_finish.py --case resnet20 --weights r20.safetensors --images cifar10 --json finish.jsonl

The network is the ``knapsack`` baseline at the case's budget, compensated. A recipe is the usual finish with one thing
changed: the weight decay, the teacher's temperature or share, the size of batches, an average of the weights over the
second half, or distillation of the last stage's features besides. All recipes of a seed see the same examples in the
same order, in as many epochs, and are scored on validation, so that differences are paired. Every finish is a line of
the ``--json`` file; a second run with the same file does what is missing.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from bench_cases import Prepared, case_parser, prepare, settings
from bench_compensation import policies
from bench_search import Journal, notify
from bench_tables import mean_and_error
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from autoprune.core.policy import PruningPolicy
from autoprune.models.copying.copy_network import copy_network
from autoprune.pruning.compensation.kept_rows import kept_along, lost_positions
from autoprune.search.evaluation.stopwatch import Stopwatch
from autoprune.search.setup.build_evaluator import build_maker
from autoprune.search.setup.from_spec import finetune_settings
from autoprune.training.loop import TrainingRun, train
from autoprune.training.loss import LossFunction, finetune_loss
from autoprune.training.scoring import score

USUAL = "usual"
_STAGE, _NORM = "layer3", "bn2.weight"  # of the built-in ResNets: the last stage, and what its stream's channels are in
_FEATURES_SHARE = 1.0  # of the mean squared error of features, each divided by its variance
_EMA = 0.98


@dataclass(frozen=True)
class Recipe:
    """A change of the usual finish.

    Attributes:
        change: what is changed of its settings.
        batches: how many usual batches are one of its own; the rate grows by the square root of it.
        rate: by what the peak rate is multiplied besides.
        is_averaged: whether the weights are averaged over the second half.
        has_features: whether the last stage's outputs are distilled too.
    """

    change: dict[str, float] = field(default_factory=dict)
    batches: float = 1
    rate: float = 1.0
    is_averaged: bool = False
    has_features: bool = False


RECIPES = {
    USUAL: Recipe(),
    "no decay": Recipe({"weight_decay": 0.0}),
    "decay 2e-4": Recipe({"weight_decay": 2e-4}),
    "temperature 2": Recipe({"temperature": 2.0}),
    "temperature 8": Recipe({"temperature": 8.0}),
    "teacher alone": Recipe({"distill_weight": 1.0}),
    "teacher half": Recipe({"distill_weight": 0.5}),
    "batches twice": Recipe(batches=2),
    "batches half": Recipe(batches=0.5),
    "batches a quarter": Recipe(batches=0.25),
    "rate a third": Recipe(rate=1 / 3),
    "rate twice": Recipe(rate=2),
    "rate three times": Recipe(rate=3),
    "averaged": Recipe(is_averaged=True),
    "features": Recipe(has_features=True),
    "features, batches half": Recipe(has_features=True, batches=0.5),
}


def main() -> None:
    options = parse_arguments()
    journal = Journal(Path(options.json))
    chosen = settings(options)
    key = {"case": options.case, "steps": chosen["finish_steps"], "lr": chosen["finish_lr"]}
    if not options.table:
        prepared = prepare(options, Path(f"{options.json}.work") / options.case, 0, notify)
        bench = _Bench(prepared, next(policies(prepared, ["knapsack"]))[1], chosen["finish_steps"], chosen["finish_lr"])
        for seed in options.seeds:
            for name in options.recipes:
                print(journal.once(partial(bench.finished, name, seed), kind="finish", recipe=name, seed=seed, **key))
    show(journal, key)


def parse_arguments() -> argparse.Namespace:
    parser = case_parser(__doc__)
    parser.add_argument("--seeds", type=lambda text: [int(n) for n in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--recipes", type=lambda text: text.split(","), default=list(RECIPES), help=", ".join(RECIPES))
    parser.add_argument("--budget", default=None, help="MFLOPs, or a share such as 50%%")
    parser.add_argument("--finish-steps", type=int, default=None, help="of the usual batch size; default: the case's")
    parser.add_argument("--finish-lr", type=float, default=None, help="peak rate; default: the case's")
    fixed = {"steps": None, "batch_size": None, "lr": None, "dense_epochs": None}
    parser.set_defaults(**fixed, trials=30, max_drop=0.02, precision="auto", layout="auto")
    return parser.parse_args()


class _Bench:
    """One pruned network, and what finishes copies of it."""

    def __init__(self, prepared: Prepared, policy: PruningPolicy, steps: int, lr: float) -> None:
        self.study, self.steps = prepared.study, steps
        usual = finetune_settings(prepared.study.spec)
        self.usual = replace(usual, epochs=steps / prepared.task.steps_per_epoch(usual.batch_size), lr=lr)
        self.teacher = prepared.teacher()
        maker, self.kept = build_maker(prepared.study, self.usual), self._kept(policy)
        self.network = maker.pruned(policy, Stopwatch(lambda phase: None))

    def _kept(self, policy: PruningPolicy) -> Tensor:
        """Return which channels of the last stage's output the pruned network has."""
        dense = self.study.network
        stage = dense.get_submodule(_STAGE)
        tensor = f"{_STAGE}.{len(list(stage.children())) - 1}.{_NORM}"
        size = len(dense.get_parameter(tensor))
        return kept_along(lost_positions(dense, self.study.pruner.cut(policy)), tensor, 0, size)

    def finished(self, name: str, seed: int) -> dict[str, Any]:
        """Return the scores on validation after a finish."""
        study, recipe = self.study, RECIPES[name]
        network = study.device.place(copy_network(self.network))
        size, factor = round(self.usual.batch_size * recipe.batches), recipe.rate * recipe.batches**0.5
        wanted = replace(self.usual, batch_size=size, lr=self.usual.lr * factor, **recipe.change)
        loss = finetune_loss(study.task, wanted)
        if recipe.has_features:
            loss = self._with_features(network, loss)
        averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(_EMA), use_buffers=True)
        on_step = partial(_average, averaged, network) if recipe.is_averaged else None
        began = time.process_time()
        train(network, TrainingRun(study.task, wanted, study.device, seed), loss, self.teacher, on_step=on_step)
        seconds = time.process_time() - began
        found = score(averaged.module if recipe.is_averaged else network, study.task, "val", study.device)
        return {"accuracy": found.measurement["accuracy"], "loss": round(found.loss, 4), "cpu_seconds": round(seconds)}

    def _with_features(self, network: nn.Module, plain: LossFunction) -> LossFunction:
        """Return the loss with the distance of the last stage's outputs from the dense network's."""
        study, seen = self.study, dict[str, Tensor]()
        dense = study.device.place(copy_network(study.network)).eval()
        for which, module in (("pruned", network), ("dense", dense)):
            module.get_submodule(_STAGE).register_forward_hook(partial(_keep, seen, which))

        def loss(output: Any, batch: Any, answers: Any) -> Tensor:
            with torch.no_grad():
                study.device.answer(study.task.forward, dense, batch)
            target = seen["dense"].float()[:, self.kept]
            spread = target.var(dim=(0, 2, 3), keepdim=True) + 1e-6
            far = (F.mse_loss(seen["pruned"].float(), target, reduction="none") / spread).mean()
            return plain(output, batch, answers) + _FEATURES_SHARE * far

        return loss


def _keep(seen: dict[str, Tensor], which: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
    seen[which] = output


def _average(averaged: AveragedModel, network: nn.Module, step: int, total: int) -> None:
    if 2 * step >= total:
        averaged.update_parameters(network)


def show(journal: Journal, key: dict[str, Any]) -> None:
    """Print a row for each recipe, with its difference from the usual finish of the same seed."""
    found: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for record in journal.records:
        if all(record.get(name) == value for name, value in {"kind": "finish", **key}.items()):
            found[record["recipe"]][record["seed"]] = record
    print("| recipe | accuracy on validation, % | loss | against usual, points | loss against usual | CPU s |")
    print("|---" * 6 + "|")
    for name, by_seed in found.items():
        accuracies = " / ".join(f"{100 * one['accuracy']:.2f}" for one in by_seed.values())
        points = mean_and_error(_differences(lambda one: 100 * one["accuracy"], by_seed, found[USUAL]))
        losses = mean_and_error(_differences(lambda one: one["loss"], by_seed, found[USUAL]), 3)
        loss, seconds = (mean(one[what] for one in by_seed.values()) for what in ("loss", "cpu_seconds"))
        print(f"| {name} | {accuracies} | {loss:.4f} | {points} | {losses} | {seconds:.0f} |")


def _differences(
    value: Callable[[dict[str, Any]], float], ours: dict[int, dict[str, Any]], usual: dict[int, dict[str, Any]]
) -> list[float]:
    """Return what one recipe has more than the usual one, for each seed of both."""
    return [value(ours[seed]) - value(usual[seed]) for seed in ours if seed in usual]


if __name__ == "__main__":
    main()
