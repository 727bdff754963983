"""The sections of a study's spec that say what is pruned, and what may go; each field checks its own range.

The names of models, data and criteria are checked in form against ``core.builtin_names``, so that nothing heavy is
imported. ``spec`` puts the sections together.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from autoprune.core.builtin_names import DATA, IMPORTANCES, MODELS
from autoprune.core.policy import MASK_PATTERNS
from autoprune.errors import did_you_mean
from autoprune.study.spec_base import Names, Section, check_name, check_unique, fault

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar")  # the last of .pth.tar
PATTERNS = ("channel", *MASK_PATTERNS)
MASK_CRITERIA = ("magnitude", "gradient", "wanda")


class ModelSpec(Section):
    """Which network is pruned and where its weights come from."""

    source: str = Field(
        default="resnet56",
        description="resnet20/32/44/56, vit, lstm, mlp, a plug-in, torchvision:NAME, pkg.mod:fn or file.py:fn",
    )
    weights: str = Field(
        default="",
        description="state dict (.safetensors, .pt, .pth, .ckpt, .bin, .pth.tar), or for torchvision models a weights "
        "name such as DEFAULT; empty: train the dense network",
    )

    @field_validator("source")
    @classmethod
    def _known_in_form(cls, source: str) -> str:
        return check_name(MODELS, source, "torchvision:")

    @model_validator(mode="after")
    def _weights_fit_source(self) -> ModelSpec:
        named = self.source.startswith("torchvision:") and self.weights.replace(".", "_").isidentifier()
        if self.weights and not self.weights.endswith(WEIGHT_SUFFIXES) and not named:
            raise fault(
                f"expected a file ending in {', '.join(WEIGHT_SUFFIXES)}, or nothing, to train the dense network; "
                f"a name such as DEFAULT is for torchvision models, and model.source is {self.source!r}",
                key="weights",
                because=("source",),
            )
        return self


class DataSpec(Section):
    """Which examples the network is trained, pruned and scored on."""

    source: str = Field(
        default="digits",
        description="digits, breast-cancer, cifar10, a plug-in, imagefolder:PATH, audiofolder:PATH, ratings:FILE.csv, "
        "pkg.mod:fn or file.py:fn",
    )
    root: str = Field(
        default="", description="folder for downloaded data; empty: $XDG_CACHE_HOME/autoprune, or ~/.cache/autoprune"
    )
    image_size: int = Field(default=224, ge=8, description="pixels per side images are brought to; imagefolder only")
    sample_rate: int = Field(
        default=16_000, ge=1, description="samples per second sounds are brought to; audiofolder only"
    )
    seconds: float = Field(default=1.0, gt=0, description="length sounds are cut or padded to; audiofolder only")
    workers: int = Field(default=2, ge=0, description="processes that load streamed data; 0: load in this one")

    @field_validator("source")
    @classmethod
    def _known_in_form(cls, source: str) -> str:
        return check_name(DATA, source, *DATA.prefixes)

    @property
    def may_bring_metrics(self) -> bool:
        """Return whether the data is no built-in one, and may be judged by metrics that are not known before it is."""
        return self.source not in DATA.builtins and not self.source.startswith(DATA.prefixes)


class LoopSpec(Section):
    """The user's own training and judgement, in the place of ours."""

    finetune: str = Field(
        default="",
        description="pkg.mod:fn or file.py:fn that trains a network in place: fn(network, steps, seed, on_step)",
    )
    evaluate: str = Field(
        default="",
        description="pkg.mod:fn or file.py:fn that judges: fn(network, split) -> value, (value, standard error, "
        "examples), or a dictionary of either by metric",
    )
    example: str = Field(
        default="",
        description="pkg.mod:name or file.py:name of a batch that the network is called with, or of a function that "
        "returns one; with finetune and evaluate no data is needed",
    )
    steps_per_epoch: int = Field(default=100, ge=1, description="steps that an epoch counts for where there is no data")

    @field_validator("finetune", "evaluate", "example")
    @classmethod
    def _is_code(cls, source: str) -> str:
        where, colon, name = source.rpartition(":")
        if source and not (colon and where and name.isidentifier()):
            raise fault("expected package.module:name or path/to/file.py:name")
        return source

    @property
    def is_used(self) -> bool:
        """Return whether anything of a loop is given."""
        return bool(self.finetune or self.evaluate or self.example)

    @property
    def is_whole(self) -> bool:
        """Return whether the loop needs no data."""
        return bool(self.finetune and self.evaluate and self.example)


class SpaceSpec(Section):
    """What a policy may choose from."""

    importances: Names = Field(
        default=("obs", "fisher", "fpgm", "l2"),
        description="criteria offered to every group: built-in, a plug-in's name, pkg.mod:fn or file.py:fn",
    )
    max_sparsity: float = Field(default=0.9, gt=0, lt=1, description="largest fraction of a group's channels to go")
    round_to: int | Literal["auto"] = Field(
        default=1,
        description="kept channels are a multiple of this: 1, 2, 4, 8 or 16; auto: the one on which networks are "
        "faster beyond noise than narrower ones, timed on this machine when the study begins",
    )
    calibration_images: int = Field(
        default=512, ge=1, description="training examples that data-driven criteria look at"
    )
    patterns: Names = Field(
        default=("channel",), description="what may go: channel, and weight or 2:4, which are masks"
    )
    mask_criteria: Names = Field(default=("magnitude",), description="of masks: magnitude, gradient or wanda")
    max_mask_sparsity: float = Field(default=0.9, gt=0, lt=1, description="largest fraction of a layer a mask may zero")
    depth: bool = Field(default=True, description="whether residual blocks may be dropped, where there are any")
    keep: Names = Field(default=(), description="module paths, * for any part, such as layer1.*: not pruned")
    only: Names = Field(
        default=(), description="module paths, as in keep: nothing else is pruned; empty: everything is"
    )
    max_drop: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="rise of the error rate on calibration examples that cutting one group alone may cause in the "
        "threshold baseline; 0: no such baseline",
    )
    seconds: float = Field(default=120.0, gt=0, description="time limit for finding groups")

    @field_validator("patterns", "mask_criteria")
    @classmethod
    def _known(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        check_unique(names)
        known = PATTERNS if info.field_name == "patterns" else MASK_CRITERIA
        unknown = [name for name in names if name not in known]
        if unknown:
            raise fault(f"expected names among {', '.join(known)}{did_you_mean(unknown[0], known)}")
        if set(MASK_PATTERNS) <= set(names):
            raise fault(f"expected one of {' and '.join(MASK_PATTERNS)} at most: they exclude one another")
        return names

    @field_validator("keep", "only")
    @classmethod
    def _paths(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        check_unique(names, may_be_empty=True)
        if "" in names:
            raise fault("expected module paths such as layer1.*, none of them empty")
        return names

    @field_validator("round_to", mode="before")
    @classmethod
    def _power_of_two(cls, value: object) -> object:
        if value not in (1, 2, 4, 8, 16, "auto"):
            raise fault("expected one of 1, 2, 4, 8, 16, auto")
        return value

    @property
    def multiple(self) -> int:
        """Return the multiple, 1 as long as it is not decided."""
        return 1 if self.round_to == "auto" else self.round_to

    @field_validator("importances")
    @classmethod
    def _known_in_form(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        check_unique(names)
        return tuple(check_name(IMPORTANCES, name) for name in names)


class SensitivitySpec(Section):
    """How the rise of the loss is measured, once per study, when each group alone is cut."""

    enabled: bool = Field(default=True, description="whether it is measured; proposals start from it")
    images: int = Field(default=1024, ge=1, description="most validation examples each network is scored on")
    share: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="most of the search's expected forward passes it takes; a training step counts as three",
    )


class ScreeningSpec(Section):
    """How many networks are cut, compensated and looked at without training before the first trial."""

    enabled: bool = Field(
        default=True,
        description="whether networks are looked at first; needs the guided sampler and finetune.compensation_images",
    )
    networks: int = Field(
        default=100, ge=24, description="how many are looked at: three quarters over all budgets, the rest at this one"
    )
    images: int = Field(
        default=64,
        ge=16,
        description="validation examples each network is looked at on; the second time eight times as many",
    )


class StoppingSpec(Section):
    """Whether candidates that can no longer win are stopped early, and how many examples are looked at for it."""

    enabled: bool = Field(
        default=True,
        description="stop a candidate whose loss after recalibration or half-way predicts that it cannot win",
    )
    images: int = Field(
        default=1024, ge=1, description="validation examples looked at after recalibration and half-way"
    )
    half_way: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="whether candidates are looked at half-way through the fine-tune, too; auto: where that costs at "
        "most a tenth of what stopping one there would save",
    )
