"""The sections of a study's spec that say how networks are trained: dense, regularised, fine-tuned, picked."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from autoprune.core.export_formats import named_formats
from autoprune.core.preference import PREFERRED, Preference
from autoprune.errors import UnknownNameError
from autoprune.study.spec_base import LARGEST_BATCH, OptimizerName, Rate, Section, fault

UNTRAINED_IMAGES = 512  # a short fine-tune makes good what half as many cost
FINISH_IMAGES = 1024
UNTRAINED_FINISH_IMAGES = 2048  # done once, where nothing makes good what fewer cost


class DenseSpec(Section):
    """How the dense network is trained when no weights are given."""

    epochs: int = Field(
        default=10, ge=0, description="passes over the training examples; 0: the network comes trained from its source"
    )
    batch_size: int = Field(default=32, ge=1, le=LARGEST_BATCH, description="examples per step")
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
    epochs: float = Field(default=15.0, gt=0, description="passes over the training examples")
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
    """How every candidate is compensated and fine-tuned before it is scored."""

    epochs: float = Field(default=1.25, ge=0, description="passes over the training examples; 0: no training")
    batch_size: int = Field(default=32, ge=1, le=LARGEST_BATCH, description="examples per step")
    lr: Rate = Field(
        default="auto",
        description="peak learning rate; auto: that of a few by which a pruned network is best after some steps, tried "
        "once, when the study begins",
    )
    weight_decay: float = Field(default=5e-4, ge=0, description="L2 penalty, or with adamw the decoupled decay")
    optimizer: OptimizerName = Field(default="sgd", description="sgd with Nesterov momentum, or adamw")
    distill: bool = Field(default=True, description="whether the dense network is the teacher")
    temperature: float = Field(default=4.0, gt=0, description="softness of the teacher's answers")
    distill_weight: float = Field(
        default=0.9, ge=0, le=1, description="share of the teacher in the loss, not of labels"
    )
    compensation_images: int = Field(
        default=256,
        ge=0,
        description="training examples by which the weights that stay are refitted after a cut, twice as many and at "
        "least 1024 in a pick; 0: none are",
    )
    recalibration_images: int = Field(
        default=512,
        ge=1,
        description="training examples for batch norm's statistics after a cut that is not compensated",
    )

    @property
    def untrained_images(self) -> int:
        """Return by how many examples is refitted what no fine-tune follows, or what is done once; 0: nothing is."""
        return self.compensation_images and max(self.compensation_images, UNTRAINED_IMAGES)

    @property
    def finish_images(self) -> int:
        """Return by how many examples is refitted what a pick finishes; 0: nothing is."""
        return self.compensation_images and max(2 * self.compensation_images, FINISH_IMAGES)

    @property
    def untrained_finish_images(self) -> int:
        """Return by how many examples is refitted what a pick has solved for and does not train; 0: nothing is."""
        return self.compensation_images and max(4 * self.compensation_images, UNTRAINED_FINISH_IMAGES)


class PickSpec(Section):
    """Which candidates are finished and how long they are trained; all else is as in ``[finetune]``."""

    epochs: float = Field(
        default=10.0, ge=0, description="passes over the training examples; 0: none, with the trial's stored weights"
    )
    lr: Rate = Field(
        default="auto",
        description="peak learning rate; auto: that of [finetune], or larger if the finish is long",
    )
    top: int = Field(
        default=3,
        ge=1,
        description="candidates that begin the longer fine-tune; the better half by validation loss goes on, until one "
        "is left",
    )
    prefer: Preference = Field(
        default=PREFERRED,
        description="which trial is best of those whose quality is within one standard error of the best: the "
        "fastest, the smallest, or (accuracy) that of least validation loss; the first two go without a contest",
    )
    compare: bool = Field(
        default=True, description="whether the uniform baseline of the same budget is finished too, to compare with"
    )
    export: str = Field(
        default="auto",
        description="further files: onnx, onnx-int8, pt2 or several, none; auto: onnx",
    )
    int8_max_drop: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="how much worse int8 may be than float32 on validation: of a metric in % a fraction, 0.01 being "
        "one point, of others a share of the score; layers stay in float32 until that holds",
    )
    qat: bool = Field(
        default=False,
        description="whether the last quarter of the fine-tune is taken once more with the rounding of int8, where "
        "int8 is exported; what comes of it is kept if it is better in int8 beyond noise",
    )

    @field_validator("export")
    @classmethod
    def _formats(cls, text: str) -> str:
        try:
            named_formats(text)
        except UnknownNameError as error:
            raise fault(str(error)) from error
        return text
