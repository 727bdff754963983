"""The names that autoprune ships: importance criteria, networks, data sets, loggers and samplers.

Five :class:`Registry` tables and one closed list. They stand on a low floor, without torch,
so that a study can be read and its names checked before anything heavy is imported; what a name
stands for is imported when somebody asks the registry for it.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from autoprune.core.registry import Registry

IMPORTANCES = Registry(
    kind="importance criterion",
    group="autoprune.importances",
    builtins={
        name: f"autoprune.pruning.criteria.{file}:{name}"
        for file, names in {
            "norms": ("l1", "l2", "lamp", "fpgm", "bn_scale"),
            "gradients": ("gradient", "taylor", "snip"),
            "fisher": ("fisher",),
            "obs": ("obs",),
            "activations": ("activation", "apoz"),
            "ablation": ("ablation",),
            "synflow": ("synflow",),
            "random": ("random",),
        }.items()
        for name in names
    },
)
"""Criteria that score the channels of a group; larger means keep."""

MODELS = Registry(
    kind="model",
    group="autoprune.models",
    builtins={
        **{f"resnet{depth}": f"autoprune.models.cifar_resnet:resnet{depth}" for depth in (20, 32, 44, 56)},
        **{name: f"autoprune.models.{name}:{name}" for name in ("lstm", "vit", "mlp")},
    },
    prefixes=("torchvision:",),
)
"""Networks; ``torchvision:NAME`` is understood beside these, by whoever builds the network."""

DATA = Registry(
    kind="data set",
    group="autoprune.data",
    builtins={
        name: f"autoprune.tasks.builtin:{name.replace('-', '_')}" for name in ("digits", "breast-cancer", "cifar10")
    },
    prefixes=("imagefolder:", "audiofolder:", "ratings:"),
)
"""Data sets; ``imagefolder:PATH``, ``audiofolder:PATH`` and ``ratings:FILE`` are understood beside these."""

LOGGERS = Registry(
    kind="logger",
    group="autoprune.loggers",
    builtins={
        "tensorboard": "autoprune.loggers.tensorboard:TensorBoardLogger",
        "mlflow": "autoprune.loggers.mlflow:MlflowLogger",
        "wandb": "autoprune.loggers.wandb:WandbLogger",
    },
)
"""What logs each trial beside the display; each needs the extra of its name."""

EXPORTS = Registry(kind="export format", group="autoprune.exports")
"""Formats that plug-ins bring, each an ``ExportFormat``; ``core.export_formats`` knows our own."""

SamplerName: TypeAlias = Literal["auto", "guided", "tpe", "gp", "nsga2", "random"]
SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)
"""What proposes policies: ``guided`` is ours, ``auto`` chooses, the others are Optuna's."""
