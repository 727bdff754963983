"""A stored policy, and the network that it is to be applied to: how the one is read and the other built.

``apply_policy`` brings the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from autoprune.core.json_values import DAMAGE, parse_json
from autoprune.core.notify import Notify
from autoprune.errors import UsageError
from autoprune.export.architecture import Architecture
from autoprune.export.examples import Examples, examples_of, given_examples, random_examples
from autoprune.export.stored_policy import StoredPolicy
from autoprune.models.build import build_for_inputs, build_model
from autoprune.models.calling.inputs import Inputs
from autoprune.models.example_inputs import example_inputs
from autoprune.pruning.importance import Calibration
from autoprune.search.evaluation.calibration import calibration_of
from autoprune.search.setup.choose_runtime import named_settings
from autoprune.search.setup.from_spec import runtime_of, task_of
from autoprune.search.setup.runtime_for_inputs import runtime_for_inputs
from autoprune.study.spec import StudySpec
from autoprune.tasks.task import DataTask
from autoprune.training.device.runtime import Runtime

_BATCH = 64


def read_policy(path: Path) -> StoredPolicy:
    """Return the policy of a file: a ``policy.json`` of a picked folder, or the bare JSON of a policy.

    Raises:
        UsageError: if there is no such file, or it holds no policy.
    """
    try:
        return StoredPolicy.from_json(parse_json(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(
            f"{str(path)!r} cannot be read: {error.strerror or error}; give the policy.json of a picked folder"
        ) from error
    except DAMAGE as error:
        raise UsageError(
            f"{str(path)!r} holds no policy ({type(error).__name__}: {error}); give the policy.json of a picked folder"
        ) from error


@dataclass(frozen=True)
class TargetNetwork:
    """The network that a policy is applied to.

    Attributes:
        spec: names model, weights and data.
        network: dense, in eval mode, on the runtime.
        task: the data, or ``None`` without any.
        runtime: where it runs.
        architecture: how it was built.
        example: a batch of its inputs, on the CPU.
    """

    spec: StudySpec
    network: nn.Module
    task: DataTask | None
    runtime: Runtime
    architecture: Architecture
    example: Inputs

    @property
    def examples(self) -> Examples:
        """Return what files are checked on."""
        if self.task is not None:
            return examples_of(self.task, self.network)
        return (
            random_examples(self.example.shape, self.spec.seed)
            if self.example.is_plain
            else given_examples(self.example)
        )

    def calibration(self) -> Calibration:
        """Return training batches for criteria that look at some; none without data."""
        if self.task is None:
            return Calibration((), self.spec.seed, self.architecture.input_shape or None)
        limit = self.spec.space.calibration_images
        stream = self.task.eval_batches("train", _BATCH, self.runtime, limit=limit)
        return calibration_of(self.task, self.network, stream, self.spec.seed)


def target_network(
    spec: StudySpec,
    stored: StoredPolicy,
    shape: tuple[int, ...],
    classes: int,
    has_data: bool,
    notify: Notify,
    example: str = "",
) -> TargetNetwork:
    """Build the network that a policy is to be applied to.

    Args:
        spec: names model, weights and data.
        stored: gives shape and classes where nothing else does.
        shape: of one input; empty for the data's, or else the policy's.
        classes: outputs; 0 for the data's, or else the policy's.
        has_data: whether the spec's data was asked for.
        notify: called with a sentence when something begins.
        example: ``mine.py:batch``, a batch of inputs of any structure or a function that returns one; empty for the
            data's, or else the policy's.

    Raises:
        UsageError: if inputs or classes are given nowhere, or inputs twice.
        AutopruneError: if the network or the data cannot be used.
    """
    task = task_of(spec) if has_data else None
    if task is not None and task.needs.num_classes is None:
        return _of_own_task(spec, task, notify)
    inputs = _inputs(stored, task, shape, example)
    if inputs is None:
        shape, classes = _shape_and_classes(stored, task, shape, classes)
        inputs = Inputs.of(torch.randn(2, *shape, generator=torch.Generator().manual_seed(spec.seed)))
    else:
        classes = classes or stored.num_classes
    architecture = Architecture.of(spec.model.source, inputs, classes, stored.offers)
    network = _built(spec, architecture, inputs, notify)
    runtime_of(spec).apply_threads(notify)
    runtime = runtime_for_inputs(network, inputs, runtime_of(spec), named_settings(spec.runtime), notify)
    if task is not None:
        inputs = task.inputs(network, next(iter(task.eval_batches("val", 2, runtime)))).on("cpu")
    return TargetNetwork(spec, runtime.place(network).eval(), task, runtime, architecture, inputs)


def _inputs(stored: StoredPolicy, task: DataTask | None, shape: tuple[int, ...], example: str) -> Inputs | None:
    """Return inputs that are not one tensor of real numbers: as given, or else the data's, or else the policy's.

    Raises:
        UsageError: if they are given twice.
    """
    if example and (shape or task is not None):
        raise UsageError("--example gives the inputs themselves, and --input and --data do too; give one of them")
    if example:
        return example_inputs(example)
    if task is not None:
        return None
    return stored.inputs.example().of_size(2) if stored.inputs is not None and not shape else None


def _of_own_task(spec: StudySpec, task: DataTask, notify: Notify) -> TargetNetwork:
    """Build the network that a task of any inputs is for."""
    wish = spec.model
    offers = task.needs.offers
    network = build_for_inputs(wish.source, task.example, None, spec.seed, wish.weights, notify, offers)
    inputs = task.example(network).of_size(2)
    runtime_of(spec).apply_threads(notify)
    runtime = runtime_for_inputs(network, inputs, runtime_of(spec), named_settings(spec.runtime), notify)
    architecture = Architecture.of(wish.source, inputs, offers=offers)
    return TargetNetwork(spec, runtime.place(network).eval(), task, runtime, architecture, inputs)


def _built(spec: StudySpec, architecture: Architecture, inputs: Inputs, notify: Notify) -> nn.Module:
    """Return the dense network with its weights."""
    wish, classes = spec.model, architecture.num_classes
    if not inputs.is_plain or not classes:
        offers = architecture.offers
        return build_for_inputs(wish.source, inputs, classes or None, spec.seed, wish.weights, notify, offers)
    return build_model(
        wish.source,
        num_classes=classes,
        input_shape=architecture.input_shape,
        seed=spec.seed,
        weights=wish.weights,
        notify=notify,
        remark=notify,
    )


def _shape_and_classes(
    stored: StoredPolicy, task: DataTask | None, shape: tuple[int, ...], classes: int
) -> tuple[tuple[int, ...], int]:
    """Return them as given, or else the data's, or else the policy's."""
    if task is not None and shape and shape != tuple(task.needs.input_shape):
        raise UsageError(
            f"--input is {shape} and the data's inputs are {tuple(task.needs.input_shape)}; leave --input out"
        )
    shape = tuple(task.needs.input_shape) if task else shape or stored.input_shape
    classes = classes or ((task.needs.num_classes or 0) if task else stored.num_classes)
    if not shape or not classes:
        raise UsageError(
            "the policy does not say what its network reads; give --data, or --input and --classes, or --example"
        )
    return shape, classes
