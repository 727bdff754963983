"""What other tools prune, for ``bench_search.py``: Torch-Pruning's rankings and NVIDIA ModelOpt's FastNAS.

They are imported late and belong into an environment of their own:

    pip install torch torchvision torch-pruning==1.6.1
    pip install nvidia-modelopt==0.47.0 torchprofile==0.0.4 requests huggingface_hub
    pip install -e .

Each takes a copy of the dense network and returns a plain module within the budget by our count, pruned and not
fine-tuned. Costs are ours for every contender; ModelOpt counts two FLOPs for what we count one, norms left out.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.cost.cost_model import measure_network
from autoprune.tasks.task import DataTask
from autoprune.training.device.runtime import Runtime
from autoprune.training.loop import stream
from autoprune.training.scoring import score

MAX_SPARSITY = 0.9  # of any group: our own default, so that no ranking empties a layer
RANKING_STEPS = 200  # of a ranking from nothing removed to everything that may go
SCORED_IMAGES, CALIBRATION_BATCH = 1000, 16
CALIBRATION_BATCHES = 50  # with fewer FastNAS recalibrates no norm at all, and only warns
DIVISOR = 4  # FastNAS's own default, 32, cannot halve a network of 16, 32 and 64 channels


@dataclass(frozen=True)
class Dense:
    """What a peer is given: a network it may change, data, how much may stay, and a folder for its files."""

    network: nn.Module
    task: DataTask
    runtime: Runtime
    limit_mflops: float
    seed: int
    scratch: Path

    @property
    def example(self) -> Tensor:
        """Return one input."""
        return torch.zeros(1, *self.task.input_shape)


@dataclass(frozen=True)
class Pruned:
    """A peer's network, and notes on how it was made."""

    network: nn.Module
    notes: dict[str, Any]


Peer = Callable[[Dense], Pruned]


def mflops_of(network: nn.Module, example: Tensor) -> float:
    """Return a network's cost by our count."""
    return measure_network(network, example)["mflops"]


def torch_pruning(dense: Dense, isomorphic: bool) -> Pruned:
    """Remove what ranks lowest over the whole network, step by step, until the budget is met.

    Source: Fang et al. 2023, arXiv:2301.12900; isomorphic: Fang et al. 2024, arXiv:2407.04616.
    """
    import torch_pruning as tp

    network, example = dense.network.cpu().eval(), dense.example
    for parameter in network.parameters():
        parameter.requires_grad_(True)  # without gradients it finds no graph
    classifier = [m for m in network.modules() if isinstance(m, nn.Linear) and m.out_features == dense.task.num_classes]
    fresh: dict[str, Any] = {
        name: {} for name in ("in_channel_groups", "out_channel_groups", "num_heads", "channel_groups")
    }  # its own defaults are shared between pruners, and keep every network alive
    pruner = tp.pruner.BasePruner(
        network,
        example,
        tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        isomorphic=isomorphic,
        pruning_ratio=MAX_SPARSITY,
        max_pruning_ratio=MAX_SPARSITY,
        iterative_steps=RANKING_STEPS,
        ignored_layers=classifier,
        **fresh,
    )
    for step in range(1, RANKING_STEPS + 1):
        pruner.step()
        if mflops_of(network, example) <= dense.limit_mflops:
            return Pruned(network, {"steps": step, "version": version("torch-pruning")})
    raise RuntimeError(f"torch-pruning did not reach {dense.limit_mflops} MFLOPs in {RANKING_STEPS} steps")


def fastnas(dense: Dense) -> Pruned:
    """Search widths by ModelOpt's sensitivity map and bisection, within our budget by our count.

    Its sensitivity is the accuracy on a fixed subset of the validation images, after its own recalibration of norms.
    """
    example = dense.example
    factor, scored = 1.0, [0]
    checkpoint = str(dense.scratch / "fastnas.pt")  # the sensitivities: dear once, and kept if the run is cut off
    while factor > 0.5:
        network = _fastnas(dense, factor * dense.limit_mflops, checkpoint, scored)
        if mflops_of(network, example) <= dense.limit_mflops:
            notes = {"constraint_factor": factor, "evaluations": scored[0], "version": version("nvidia-modelopt")}
            return Pruned(network, notes)
        factor -= 0.02
    raise RuntimeError(f"FastNAS did not come within {dense.limit_mflops} MFLOPs")


def _fastnas(dense: Dense, limit_mflops: float, checkpoint: str, scored: list[int]) -> nn.Module:
    import modelopt.torch.prune as mtp

    config = mtp.fastnas.FastNASConfig()
    config["nn.Conv2d"]["*"]["channel_divisor"] = DIVISOR
    config["nn.BatchNorm2d"]["*"]["feature_divisor"] = DIVISOR
    config["nn.Linear"]["*"]["feature_divisor"] = DIVISOR
    batches = stream(dense.task, CALIBRATION_BATCHES, CALIBRATION_BATCH, dense.runtime, dense.seed)
    loader = [(batch.images, batch.labels) for batch, _ in batches]

    def accuracy(network: nn.Module) -> float:
        scored[0] += 1
        return score(network, dense.task, "val", dense.runtime, limit=SCORED_IMAGES).measurement["accuracy"]

    with contextlib.redirect_stdout(sys.stderr):  # it prints the whole space
        network, _ = mtp.prune(
            model=copy.deepcopy(dense.network),
            mode=[("fastnas", config)],
            constraints={"flops": 2e6 * limit_mflops},  # its FLOPs are twice our MACs
            dummy_input=dense.runtime.place_images(dense.example),
            config={
                "data_loader": loader,
                "collect_func": lambda batch: batch[0],
                "score_func": accuracy,
                "checkpoint": checkpoint,
                "verbose": False,
            },
        )
    return network


PEERS: dict[str, Peer] = {
    "tp-global": lambda dense: torch_pruning(dense, isomorphic=False),
    "tp-isomorphic": lambda dense: torch_pruning(dense, isomorphic=True),
    "fastnas": fastnas,
}
