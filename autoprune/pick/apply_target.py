"""A stored policy, and the network that it is to be applied to: how the one is read and the other built.

``apply_policy`` brings the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from autoprune.core.json_values import DAMAGE, parse_json
from autoprune.core.notify import Notify
from autoprune.errors import UsageError
from autoprune.export.architecture import Architecture
from autoprune.export.convert import Examples, examples_of, random_examples
from autoprune.export.stored_policy import StoredPolicy
from autoprune.models.build import build_model
from autoprune.search.setup.choose_runtime import named_settings, runtime_to_run
from autoprune.search.setup.from_spec import runtime_of, task_of
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
        example: two inputs, shape ``(2, *input_shape)``, on the CPU.
    """

    spec: StudySpec
    network: nn.Module
    task: DataTask | None
    runtime: Runtime
    architecture: Architecture
    example: Tensor

    @property
    def examples(self) -> Examples:
        """Return what files are checked on."""
        return examples_of(self.task) if self.task else random_examples(self.architecture.input_shape, self.spec.seed)

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """Return training images and labels for criteria that look at some; none without data."""
        if self.task is None:
            return []
        limit = self.spec.space.calibration_images
        stream = self.task.eval_batches("train", _BATCH, self.runtime, limit=limit)
        return [(batch.images, batch.labels) for batch in stream]


def target_network(
    spec: StudySpec, stored: StoredPolicy, shape: tuple[int, ...], classes: int, has_data: bool, notify: Notify
) -> TargetNetwork:
    """Build the network that a policy is to be applied to.

    Args:
        spec: names model, weights and data.
        stored: gives shape and classes where nothing else does.
        shape: of one input; empty for the data's, or else the policy's.
        classes: outputs; 0 for the data's, or else the policy's.
        has_data: whether the spec's data was asked for.
        notify: called with a sentence when something begins.

    Raises:
        UsageError: if shape or classes are given nowhere.
        AutopruneError: if the network or the data cannot be used.
    """
    task = task_of(spec) if has_data else None
    shape, classes = _shape_and_classes(stored, task, shape, classes)
    network = build_model(
        spec.model.source,
        num_classes=classes,
        input_shape=shape,
        seed=spec.seed,
        weights=spec.model.weights,
        notify=notify,
        remark=notify,
    )
    runtime_of(spec).apply_threads()
    runtime = runtime_to_run(network, shape, runtime_of(spec), named_settings(spec.runtime), notify)
    example = torch.randn(2, *shape, generator=torch.Generator().manual_seed(spec.seed))
    if task is not None:
        example = next(iter(task.eval_batches("val", 2, runtime))).images.cpu()
    architecture = Architecture(spec.model.source, classes, shape)
    return TargetNetwork(spec, runtime.place(network).eval(), task, runtime, architecture, example)


def _shape_and_classes(
    stored: StoredPolicy, task: DataTask | None, shape: tuple[int, ...], classes: int
) -> tuple[tuple[int, ...], int]:
    """Return them as given, or else the data's, or else the policy's."""
    if task is not None and shape and shape != tuple(task.input_shape):
        raise UsageError(f"--input is {shape} and the data's inputs are {tuple(task.input_shape)}; leave --input out")
    shape = tuple(task.input_shape) if task else shape or stored.input_shape
    classes = classes or (task.num_classes if task else stored.num_classes)
    if not shape or not classes:
        raise UsageError("the policy does not say what its network reads; give --data, or --input and --classes")
    return shape, classes
