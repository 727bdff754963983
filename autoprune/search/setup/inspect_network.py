"""What can be pruned in a network: groups, blocks, what is frozen and why, costs and scores.

Nothing is trained and nothing stored. A study's own dense network is looked at if it has one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from autoprune.core.builtin_names import IMPORTANCES
from autoprune.core.counts import ChannelCounts
from autoprune.core.space import SearchSpace
from autoprune.cost.cost_model import CostModel
from autoprune.models.build import build_model
from autoprune.models.load_weights import load_weights
from autoprune.pruning.channel_positions import tensor_shrinks
from autoprune.pruning.find_blocks import find_blocks
from autoprune.pruning.groups import Groups, find_groups
from autoprune.pruning.importance import Calibration, has_mark, score_groups
from autoprune.pruning.selection import choose_blocks, choose_groups
from autoprune.search.setup.network_inspection import QUANTILES, CriterionSpread, NetworkInspection
from autoprune.search.setup.regularised_network import regularisation_facts
from autoprune.study.folder import StudyFolder
from autoprune.study.spec import StudySpec
from autoprune.tasks.task import DataTask
from autoprune.training.device.runtime import Runtime

IMAGES = 64  # enough to see how a criterion spreads; a study looks at space.calibration_images


def inspect_network(
    spec: StudySpec, shape: tuple[int, ...], classes: int, folder: StudyFolder, task: DataTask | None
) -> NetworkInspection:
    """Return everything that ``autoprune inspect`` shows.

    Args:
        spec: which network, which criteria, what may be pruned.
        shape: of one input.
        classes: outputs.
        folder: the study's, whose dense weights are used if they are there.
        task: the data if its inputs have this shape, for criteria that need some; else ``None``.
    """
    network, trained = _network(spec, shape, classes, folder)
    example = torch.rand(2, *shape, generator=torch.Generator().manual_seed(spec.seed))
    found = choose_groups(network, find_groups(network, example), spec.space.keep, spec.space.only)
    blocks = choose_blocks(network, find_blocks(network, example, found.cuttable), spec.space.keep, spec.space.only)
    channels = {group.name: group.num_channels for group in found.cuttable}
    cost = CostModel(network, tensor_shrinks(network, found.cuttable), channels, example, blocks=blocks)
    return NetworkInspection(
        model=spec.model.source,
        trained=trained,
        input_shape=shape,
        cost=cost,
        smallest=_smallest(spec, cost, found),
        groups=found,
        blocks=blocks,
        regularisation=regularisation_facts(folder),
        criteria=_spreads(spec, network, found, example, task),
    )


def _network(spec: StudySpec, shape: tuple[int, ...], classes: int, folder: StudyFolder) -> tuple[nn.Module, bool]:
    """Return the network, and whether its weights are trained ones."""
    stored = folder.dense_weights.exists()
    network = build_model(
        spec.model.source,
        num_classes=classes,
        in_channels=shape[0],
        input_shape=shape,
        seed=spec.seed,
        weights="" if stored else spec.model.weights,
    )
    if stored:
        load_weights(network, folder.dense_weights)
    return network.eval(), stored or bool(spec.model.weights)


def _smallest(spec: StudySpec, cost: CostModel, found: Groups) -> dict[str, float]:
    """Return the costs of the smallest network of channels alone, as a share of the dense one."""
    if not found.cuttable:
        return {"mflops": 1.0, "mparams": 1.0, "size_mb": 1.0}
    names = {group.name: ("l1",) for group in found.cuttable}
    space = SearchSpace(found.cuttable, names, spec.space.max_sparsity, spec.space.round_to)
    smallest, dense = cost.measure(space.smallest), cost.measure(ChannelCounts())
    return {name: smallest[name] / value for name, value in dense.values.items()}


def _spreads(
    spec: StudySpec, network: nn.Module, found: Groups, example: Tensor, task: DataTask | None
) -> dict[str, CriterionSpread]:
    """Return criterion → how its scores spread over each group, or why it gives no scores here."""
    batches = _batches(task, network)
    needs = {name: _needs(name) for name in spec.space.importances}
    usable = [name for name, need in needs.items() if need is None or batches]
    calibration = Calibration(batches, spec.seed, tuple(example.shape[1:]))
    scores = score_groups(network, found.cuttable, usable, calibration) if found.cuttable else {}
    return {
        name: CriterionSpread(_quantiles(scores.get(name, {})))
        if name in usable
        else CriterionSpread(reason=f"needs {needs[name]}, and no data of this shape is given")
        for name in spec.space.importances
    }


def _quantiles(scores: Mapping[str, Tensor]) -> dict[str, tuple[float, ...]]:
    levels = torch.tensor(QUANTILES)
    return {group: tuple(map(float, torch.quantile(values, levels))) for group, values in scores.items()}


def _needs(name: str) -> str | None:
    criterion = IMPORTANCES.get(name)
    needs_data = has_mark(criterion, "uses_data") or has_mark(criterion, "uses_gradients")
    return "training data" if needs_data else None


def _batches(task: DataTask | None, network: nn.Module) -> list[tuple[Tensor, Tensor]]:
    if task is None:
        return []
    stream = task.eval_batches("train", IMAGES, Runtime(), limit=IMAGES)
    return [(batch.images, batch.labels) for batch in stream]
