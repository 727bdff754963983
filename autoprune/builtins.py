"""The names that autoprune ships: importance criteria, networks and data sets.

Three :class:`~autoprune.registry.Registry` tables and nothing else. They stand on a low floor, without torch,
so that a study can be read and its names checked before anything heavy is imported; what a name
stands for is imported when somebody asks the registry for it.
"""

from __future__ import annotations

from autoprune.registry import Registry

IMPORTANCES = Registry(
    kind="importance criterion",
    group="autoprune.importances",
    builtins={
        name: f"autoprune.pruning.importance:{name}" for name in ("l1", "l2", "bn_scale", "taylor", "fpgm", "random")
    },
)
"""Criteria that score the channels of a group; larger means keep."""

MODELS = Registry(
    kind="model",
    group="autoprune.models",
    builtins={f"resnet{depth}": f"autoprune.training.models:resnet{depth}" for depth in (20, 32, 44, 56)},
)
"""Networks; ``torchvision:NAME`` is understood beside these, by whoever builds the network."""

DATA = Registry(
    kind="data set",
    group="autoprune.data",
    builtins={name: f"autoprune.training.tasks:{name}" for name in ("digits", "cifar10")},
)
"""Data sets; ``imagefolder:PATH`` is understood beside these, by whoever builds the data."""
