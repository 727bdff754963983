"""The sections of a study's spec, one per table of a ``study.toml``; each field checks its own range.

The names of models, data and criteria are checked in form against ``core.builtin_names`` and limits against
``core.metrics``, so that nothing heavy is imported. ``spec`` puts the sections together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from autoprune.core.builtin_names import DATA, IMPORTANCES, LOGGERS, MODELS
from autoprune.core.export_formats import named_formats
from autoprune.core.metrics import Limit, metric
from autoprune.core.policy import MASK_PATTERNS
from autoprune.core.registry import Registry
from autoprune.errors import BudgetError, UnknownNameError, did_you_mean

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth")
PATTERNS = ("channel", *MASK_PATTERNS)
MASK_CRITERIA = ("magnitude", "gradient", "wanda")


class Section(BaseModel):
    """A frozen table that knows every key, and converts nothing but whole numbers into floats."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def fault(reason: str, key: str = "", because: Sequence[str] = ()) -> PydanticCustomError:
    """Return an error for a validator to raise.

    Args:
        reason: what was expected and what to do, without the key and the value.
        key: for a fault between fields of one section, the field to name.
        because: the other fields that take part in it.
    """
    return PydanticCustomError("fault", "{reason}", {"reason": reason, "key": key, "because": list(because)})


def _check_name(registry: Registry, name: str, prefix: str) -> str:
    """Return ``name`` if it can be one of ``registry``, or begins with a ``prefix`` that means something."""
    if name in registry.builtins or (prefix and name.startswith(prefix) and name != prefix):
        return name
    where, colon, attribute = name.rpartition(":")
    if colon:
        is_module = all(part.isidentifier() for part in where.split("."))
        if not (is_module or where.endswith(".py")) or not all(part.isidentifier() for part in attribute.split(".")):
            beside = f", '{prefix}…'" if prefix else ""
            raise fault(f"expected a known name{beside}, 'package.module:attribute' or 'path/to/file.py:attribute'")
        return name
    try:
        registry.check(name)
    except UnknownNameError as error:
        raise fault(f"{error}" + (f" Or '{prefix}…'." if prefix else "")) from error
    return name


def check_unique(names: tuple[str, ...], may_be_empty: bool = False) -> None:
    """Raise a fault if a name comes twice, or if there is none."""
    if not names and not may_be_empty:
        raise fault("expected at least one name")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise fault(f"expected every name once; repeated: {', '.join(twice)}")


Names = Annotated[tuple[str, ...], Field(strict=False)]
OptimizerName = Literal["sgd", "adamw"]


class ModelSpec(Section):
    """Which network is pruned and where its weights come from."""

    source: str = Field(
        default="resnet56",
        description="resnet20/32/44/56, vit, lstm, mlp, a plug-in, torchvision:NAME, pkg.mod:fn or file.py:fn",
    )
    weights: str = Field(
        default="",
        description="state dict (.safetensors, .pt, .pth), or for torchvision models a weights name such as DEFAULT; "
        "empty: train the dense network",
    )

    @field_validator("source")
    @classmethod
    def _known_in_form(cls, source: str) -> str:
        return _check_name(MODELS, source, "torchvision:")

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
    """Which images the network is trained, pruned and scored on."""

    source: str = Field(
        default="digits",
        description="digits, breast-cancer, cifar10, a plug-in, imagefolder:PATH, pkg.mod:fn or file.py:fn",
    )
    root: str = Field(default="", description="folder for downloaded data; empty: ~/.cache/autoprune")
    image_size: int = Field(default=224, ge=8, description="pixels per side images are brought to; imagefolder only")
    workers: int = Field(default=2, ge=0, description="processes that load streamed data; 0: load in this one")

    @field_validator("source")
    @classmethod
    def _known_in_form(cls, source: str) -> str:
        return _check_name(DATA, source, "imagefolder:")


class BudgetSpec(Section):
    """What the network may cost: a number in the metric's unit, or a share of the dense network such as 40%.

    Limits are held as text, as ``Budget.parse`` reads it. The text ``none`` lifts a limit that a
    lower layer set.
    """

    mflops: str | None = Field(default=None, description="million multiply-accumulates per image")
    mparams: str | None = Field(default=None, description="million parameters")
    latency_ms: str | None = Field(default=None, description="milliseconds per forward pass, timed as in [latency]")
    size_mb: str | None = Field(default=None, description="megabytes of weights")
    nonzero_mflops: str | None = Field(default=None, description="as mflops, but for weights masked to zero")
    nonzero_mparams: str | None = Field(default=None, description="as mparams, likewise")

    @field_validator("*", mode="before")
    @classmethod
    def _canonical(cls, value: Any, info: ValidationInfo) -> str | None:
        if value is None or (isinstance(value, str) and value.strip().lower() == "none"):
            return None
        try:
            Limit.parse(value, str(info.field_name))
        except BudgetError as error:
            unit = metric(str(info.field_name)).unit
            raise fault(
                f"expected a positive number of {unit}, a share of the dense network such as 40%, or none"
            ) from error
        text = "".join(str(value).split())
        number = text.rstrip("%kKMG")
        return repr(float(number)).removesuffix(".0") + text[len(number) :]


class SpaceSpec(Section):
    """What a policy may choose from."""

    importances: Names = Field(
        default=("fisher", "fpgm", "l2"),
        description="criteria offered to every group: built-in, a plug-in's name, pkg.mod:fn or file.py:fn",
    )
    max_sparsity: float = Field(default=0.9, gt=0, lt=1, description="largest fraction of a group's channels to go")
    round_to: int = Field(default=1, description="kept channels are a multiple of this: 1, 2, 4, 8 or 16")
    calibration_images: int = Field(default=512, ge=1, description="training images that data-driven criteria look at")
    patterns: Names = Field(
        default=("channel",), description="what may go: channel, and weight or 2:4, which are masks"
    )
    mask_criteria: Names = Field(default=("magnitude",), description="of masks: magnitude, gradient or wanda")
    max_mask_sparsity: float = Field(default=0.9, gt=0, lt=1, description="largest fraction of a layer a mask may zero")
    depth: bool = Field(default=False, description="whether residual blocks may be dropped")
    keep: Names = Field(default=(), description="module paths, * for any part, such as layer1.*: not pruned")
    only: Names = Field(default=(), description="module paths, likewise: nothing else is pruned; empty: everything is")
    max_drop: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="rise of the error rate on calibration images that cutting one group alone may cause in the "
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

    @field_validator("round_to")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value not in (1, 2, 4, 8, 16):
            raise fault("expected one of 1, 2, 4, 8, 16")
        return value

    @field_validator("importances")
    @classmethod
    def _known_in_form(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        check_unique(names)
        return tuple(_check_name(IMPORTANCES, name, "") for name in names)


class SensitivitySpec(Section):
    """How the rise of the loss is measured, once per study, when each group alone is cut."""

    enabled: bool = Field(default=True, description="whether it is measured; proposals start from it")
    images: int = Field(default=1024, ge=1, description="most validation images each network is scored on")
    share: float = Field(default=0.1, gt=0, le=1, description="most of the search's expected time it takes")


class DenseSpec(Section):
    """How the dense network is trained when no weights are given."""

    epochs: int = Field(
        default=16, ge=0, description="passes over the training images; 0: the network comes trained from its source"
    )
    batch_size: int = Field(default=64, ge=1, description="images per step")
    lr: float = Field(default=0.05, gt=0, description="peak learning rate")
    weight_decay: float = Field(default=5e-4, ge=0, description="L2 penalty, or with adamw the decoupled decay")
    optimizer: OptimizerName = Field(default="sgd", description="sgd with Nesterov momentum, or adamw")


class SparsitySpec(Section):
    """How the dense network is regularised before it is pruned, so that it can do without some channels."""

    method: Literal["none", "bn_l1", "group_lasso"] = Field(
        default="none",
        description="bn_l1: L1 penalty on norms' scales; group_lasso: on each channel's weights together",
    )
    strength: float = Field(default=0.03, gt=0, description="λ of the penalty; group_lasso needs ten times bn_l1's")
    epochs: float = Field(default=15.0, gt=0, description="passes over the training images")
    lr: float = Field(default=0.03, gt=0, description="peak learning rate of SGD; all else is as in [dense]")


class ScheduleSpec(Section):
    """From which weights candidates begin, in how many steps they are cut, and what of them is trained."""

    start: Literal["finetune", "rewind", "scratch"] = Field(
        default="finetune",
        description="weights candidates begin with. finetune: the trained ones; rewind: those of an early epoch; "
        "scratch: the initial ones, by which channels are then scored too",
    )
    rewind_epoch: int = Field(default=1, ge=1, description="epoch of the dense training that rewind goes back to")
    stages: int = Field(default=1, ge=1, description="how often a candidate is cut; the fine-tune is split evenly")
    trainable: Literal["all", "cut", "norms_and_head"] = Field(
        default="all", description="what is fine-tuned: all, layers that were cut, or norms and the last layer"
    )


class FinetuneSpec(Section):
    """How every candidate is recalibrated and fine-tuned before it is scored."""

    epochs: float = Field(default=1.25, ge=0, description="passes over the training images; 0: recalibrate only")
    batch_size: int = Field(default=32, ge=1, description="images per step")
    lr: float = Field(default=0.03, gt=0, description="peak learning rate")
    weight_decay: float = Field(default=5e-4, ge=0, description="L2 penalty, or with adamw the decoupled decay")
    optimizer: OptimizerName = Field(default="sgd", description="sgd with Nesterov momentum, or adamw")
    distill: bool = Field(default=True, description="whether the dense network is the teacher")
    temperature: float = Field(default=4.0, gt=0, description="softness of the teacher's answers")
    distill_weight: float = Field(
        default=0.9, ge=0, le=1, description="share of the teacher in the loss, not of labels"
    )
    recalibration_images: int = Field(default=512, ge=1, description="images for batch norm's statistics after a cut")


class StoppingSpec(Section):
    """Whether candidates that can no longer win are stopped early, and how many images are looked at for it."""

    enabled: bool = Field(
        default=True,
        description="stop a candidate whose loss after recalibration or half-way foretells that it cannot win",
    )
    images: int = Field(default=1024, ge=1, description="validation images looked at after recalibration and half-way")


class PickSpec(Section):
    """Which candidates are finished and how long they are trained; all else is as in ``[finetune]``."""

    epochs: float = Field(
        default=10.0, ge=0, description="passes over the training images; 0: none, with the weights kept of the trial"
    )
    lr: float = Field(default=0.03, gt=0, description="peak learning rate")
    top: int = Field(
        default=3,
        ge=1,
        description="candidates that begin the longer fine-tune; the better half by validation loss goes on, until one "
        "is left",
    )
    compare: bool = Field(
        default=True, description="whether the uniform baseline of the same budget is finished too, to compare with"
    )
    export: str = Field(
        default="auto",
        description="further files: onnx, pt2 or both, none; auto: onnx if the extra onnx is installed",
    )

    @field_validator("export")
    @classmethod
    def _formats(cls, text: str) -> str:
        try:
            named_formats(text)
        except UnknownNameError as error:
            raise fault(str(error)) from error
        return text


class LatencySpec(Section):
    """How a forward pass is timed on the study's device."""

    runtime: Literal["auto", "torch", "compile", "onnxruntime", "cuda"] = Field(
        default="auto",
        description="what runs the networks. torch: PyTorch as it is; compile: torch.compile; onnxruntime: ONNX "
        "Runtime on the CPU; cuda: PyTorch by the GPU's own clock; auto: cuda on a GPU, else onnxruntime if it is "
        "installed and takes the network, else torch",
    )
    batch: int = Field(default=1, ge=1, description="images per forward pass")
    threads: int = Field(default=1, ge=1, description="CPU threads while timing")
    blocks: int = Field(
        default=9, ge=5, description="timed blocks, the first 2 to warm up; the spread of the others is the error"
    )
    calls: int = Field(default=5, ge=1, description="forward passes per block")


class DiskSpec(Section):
    """What of the trials is kept on disk besides their figures."""

    keep_weights: Literal["front", "all", "none"] = Field(
        default="front",
        description="of which trials the fine-tuned weights are kept. front: of those on the front, the three best "
        "within each budget asked for, and the present budget's baselines; all; none",
    )


class RuntimeSpec(Section):
    """Where and how the arithmetic runs."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(default="auto", description="auto: the fastest there is")
    precision: Literal["auto", "fp32", "bf16"] = Field(default="auto", description="of activations in training")
    layout: Literal["auto", "channels_last", "contiguous"] = Field(default="auto", description="of images in memory")
    threads: int = Field(default=0, ge=0, description="CPU threads for training; 0: all cores")


class LoggingSpec(Section):
    """What logs each trial beside the display."""

    loggers: Names = Field(
        default=(), description="tensorboard, mlflow, a plug-in's name, pkg.mod:attr or file.py:attr; none for nobody"
    )

    @field_validator("loggers")
    @classmethod
    def _known_in_form(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if names == ("none",):
            return ()
        check_unique(names, may_be_empty=True)
        return tuple(_check_name(LOGGERS, name, "") for name in names)
