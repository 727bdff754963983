"""What can be pruned in a network: groups, blocks, what is frozen and why, costs and scores.

Nothing is trained and nothing stored. A study's own dense network is looked at if it has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from autoprune.core.builtin_names import IMPORTANCES
from autoprune.errors import ModelError
from autoprune.models.build import build_for_inputs, build_model
from autoprune.models.calling.inputs import Inputs
from autoprune.models.example_inputs import example_inputs
from autoprune.models.load_weights import load_weights
from autoprune.pruning.groups import Groups
from autoprune.pruning.importance import Calibration, has_mark, score_groups
from autoprune.search.evaluation.calibration import calibration_of
from autoprune.search.setup.network_inspection import QUANTILES, CriterionSpread, NetworkInspection
from autoprune.search.setup.regularised_network import regularisation_facts
from autoprune.search.setup.without_study import cost_of, prunable_parts, smallest_share
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
    found = _inspected(spec, network, Inputs.of(example), task, trained)
    return replace(found, regularisation=regularisation_facts(folder))


def inspect_on_task(spec: StudySpec, folder: StudyFolder, task: DataTask) -> NetworkInspection:
    """Return the same of a network that is called as a task says, whatever its inputs are.

    Args:
        spec: which network, which criteria, what may be pruned.
        folder: the study's, whose dense weights are used if they are there.
        task: says what the network is called with, and has the data for criteria that need some.
    """
    stored, source = folder.dense_weights.exists(), spec.model
    weights, offers = "" if stored else source.weights, task.needs.offers
    network = build_for_inputs(source.source, task.example, None, spec.seed, weights, offers=offers)
    if stored:
        load_weights(network, folder.dense_weights)
    data = task if task.has_batches else None
    found = _inspected(spec, network.eval(), task.example(network), data, stored or bool(source.weights))
    return replace(found, regularisation=regularisation_facts(folder))


def inspect_on_example(spec: StudySpec, example: str, classes: int | None) -> NetworkInspection:
    """Return the same of a network whose inputs are of any structure.

    Args:
        spec: which network, which criteria, what may be pruned.
        example: ``mine.py:batch``, a batch or a function that returns one.
        classes: outputs; ``None`` if the network knows them.
    """
    inputs = example_inputs(example)
    network = build_for_inputs(spec.model.source, inputs, classes, spec.seed, spec.model.weights)
    return _inspected(spec, network.eval(), inputs, None, bool(spec.model.weights))


def _inspected(
    spec: StudySpec, network: nn.Module, inputs: Inputs, task: DataTask | None, trained: bool
) -> NetworkInspection:
    found, blocks = prunable_parts(network, inputs, spec.space.keep, spec.space.only)
    cost = cost_of(network, inputs, found, blocks)
    return NetworkInspection(
        model=spec.model.source,
        trained=trained,
        inputs=inputs,
        cost=cost,
        smallest=smallest_share(cost, found, spec.space.max_sparsity, spec.space.multiple),
        groups=found,
        blocks=blocks,
        regularisation=None,
        criteria=_spreads(spec, network, found, inputs, task),
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


def _spreads(
    spec: StudySpec, network: nn.Module, found: Groups, inputs: Inputs, task: DataTask | None
) -> dict[str, CriterionSpread]:
    """Return criterion → how its scores spread over each group, or why it gives no scores here."""
    shape = inputs.shape if inputs.shape and inputs.has_real_numbers else None
    calibration = _calibration(task, network, spec.seed) if task is not None else Calibration((), spec.seed, shape)
    needs = {name: _needs(name) for name in spec.space.importances}
    usable = [name for name, need in needs.items() if need is None or task is not None]
    spreads = {
        name: CriterionSpread(reason=f"needs {need}, and no data of this shape is given")
        for name, need in needs.items()
    }
    try:
        spreads |= _scored(usable, network, found, calibration)  # all at once: they share copies and gradients
    except ModelError:  # one may not fit these inputs, and the others do
        for name in usable:
            try:
                spreads |= _scored([name], network, found, calibration)
            except ModelError as error:
                spreads[name] = CriterionSpread(reason=str(error))
    return spreads


def _scored(
    names: list[str], network: nn.Module, found: Groups, calibration: Calibration
) -> dict[str, CriterionSpread]:
    scores = score_groups(network, found.cuttable, names, calibration) if found.cuttable else {}
    return {name: CriterionSpread(_quantiles(scores.get(name, {}))) for name in names}


def _quantiles(scores: Mapping[str, Tensor]) -> dict[str, tuple[float, ...]]:
    levels = torch.tensor(QUANTILES)
    return {group: tuple(map(float, torch.quantile(values, levels))) for group, values in scores.items()}


def _needs(name: str) -> str | None:
    criterion = IMPORTANCES.get(name)
    needs_data = has_mark(criterion, "uses_data") or has_mark(criterion, "uses_gradients")
    return "training data" if needs_data else None


def _calibration(task: DataTask, network: nn.Module, seed: int) -> Calibration:
    return calibration_of(task, network, task.eval_batches("train", IMAGES, Runtime(), limit=IMAGES), seed)
