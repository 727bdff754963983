"""What a study works with once it is prepared."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from autoprune.core.channel_groups import FrozenGroup
from autoprune.core.measurement import Measurement
from autoprune.core.space import SearchSpace
from autoprune.cost.cost_model import CostModel
from autoprune.cost.latency import NetworkTimer
from autoprune.export.architecture import Architecture
from autoprune.pruning.surgery import Pruner
from autoprune.search.setup.context import StudyContext
from autoprune.study.folder import StudyFolder
from autoprune.study.spec import StudySpec
from autoprune.tasks.task import DataTask
from autoprune.training.device.runtime import Runtime


@dataclass(frozen=True)
class PreparedStudy:
    """A study that is ready to be searched, or to be picked from.

    Attributes:
        context: spec, data, device and folder, with everything decided.
        pruner: cuts copies of the dense network, which is in eval mode, placed on the device.
        start: the network whose weights candidates begin with, in eval mode and placed; mostly the dense one.
        frozen: the groups that cannot be pruned, with reasons.
        cost: closed-form costs.
        timer: times networks against the dense one, which is exported or compiled once for all.
        dense: what was measured of the dense network, on validation.
    """

    context: StudyContext
    pruner: Pruner
    start: nn.Module
    frozen: tuple[FrozenGroup, ...]
    cost: CostModel
    timer: NetworkTimer
    dense: Measurement

    @property
    def spec(self) -> StudySpec:
        """Return the spec, with every choice made."""
        return self.context.spec

    @property
    def task(self) -> DataTask:
        """Return the data."""
        return self.context.task

    @property
    def device(self) -> Runtime:
        """Return where and how networks run."""
        return self.context.device

    @property
    def folder(self) -> StudyFolder:
        """Return where the study is stored."""
        return self.context.folder

    @property
    def network(self) -> nn.Module:
        """Return the dense network."""
        return self.pruner.network

    @property
    def space(self) -> SearchSpace:
        """Return what can be pruned."""
        return self.pruner.space

    @property
    def size_format(self) -> str:
        """Return the format that sizes are those of, ``fp32`` or ``int8``."""
        return "int8" if self.cost.int8 else "fp32"

    @property
    def start_pruner(self) -> Pruner:
        """Return what cuts copies of the network that candidates begin with."""
        return replace(self.pruner, network=self.start)

    @property
    def architecture(self) -> Architecture:
        """Return how the dense network is built, as a file of weights says it."""
        needs = self.task.needs
        example = self.context.example(self.network)
        return Architecture.of(self.spec.model.source, example, needs.num_classes or 0, needs.offers)
