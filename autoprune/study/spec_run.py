"""The sections of a study's spec that say where it runs, how it times, what it keeps and who logs it."""

from __future__ import annotations

import shlex
from typing import Literal

from pydantic import Field, field_validator, model_validator

from autoprune.core.builtin_names import LOGGERS
from autoprune.study.spec_base import LARGEST_BATCH, Names, Section, check_name, check_unique, fault

OPEN_LAYOUTS = ("auto", "measured")  # which a study decides when it begins


class LatencySpec(Section):
    """How a forward pass is timed: on the study's device, or on another machine."""

    runtime: Literal["auto", "torch", "compile", "onnxruntime", "openvino", "cuda"] = Field(
        default="auto",
        description="what runs the networks. torch: PyTorch as it is; compile: torch.compile; onnxruntime: ONNX "
        "Runtime on the CPU; openvino: OpenVINO on the CPU; cuda: PyTorch by the GPU's own clock; auto: cuda on a GPU, "
        "else onnxruntime if it takes the network, else torch",
    )
    format: Literal["auto", "fp32", "int8"] = Field(
        default="fp32",
        description="in which numbers networks are timed. int8: quantised, in onnxruntime; auto: int8 where the dense "
        "network is faster in it on this machine and its score no worse beyond noise, decided when the study begins",
    )
    batch: int = Field(default=1, ge=1, le=LARGEST_BATCH, description="examples per forward pass")
    threads: int = Field(default=1, ge=1, description="CPU threads while timing")
    blocks: int = Field(
        default=9, ge=5, description="timed blocks, the first 2 to warm up; the spread of the others is the error"
    )
    calls: int = Field(default=5, ge=1, description="forward passes per block")
    command: str = Field(
        default="",
        description="what times on another machine, in ONNX Runtime: ssh pi autoprune time -, or any command that "
        "reads such an archive and prints such a document; no shell runs it; empty: this machine times",
    )
    command_seconds: float = Field(default=600.0, gt=0, description="most seconds that the command takes for a network")

    @field_validator("command")
    @classmethod
    def _is_words(cls, text: str) -> str:
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise fault(f"expected a command and its arguments, and quotes in pairs ({error})") from error
        return text.strip() if words else ""

    @model_validator(mode="after")
    def _command_runs_onnx(self) -> LatencySpec:
        if self.command and self.runtime not in ("auto", "onnxruntime"):
            raise fault("a command times in ONNX Runtime: expected auto or onnxruntime", "runtime", ("command",))
        if self.command and self.format == "int8":
            raise fault("a command is sent files in float32: expected fp32", "format", ("command",))
        return self


class DiskSpec(Section):
    """What of the trials is kept on disk besides their figures."""

    keep_weights: Literal["front", "all", "none"] = Field(
        default="front",
        description="which trials' fine-tuned weights are kept. front: those of the front, of the three best within "
        "each budget given, and of the present budget's baselines; all; none",
    )


class RuntimeSpec(Section):
    """Where and how the arithmetic runs."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(default="auto", description="auto: the fastest there is")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        description="of activations in training; auto: bf16 where the machine multiplies it faster and the network "
        "works in it, on a CPU without depthwise convolutions that have a stride",
    )
    layout: Literal["auto", "measured", "channels_last", "contiguous"] = Field(
        default="auto",
        description="of images in memory. auto: channels_last for convolutions of images on a CPU (in bf16 with AMX, "
        "and elsewhere, of 96×96 pixels or more), if the network works in it, else contiguous; measured: the one in "
        "which a few training steps take less time when the study begins",
    )
    threads: int = Field(
        default=0,
        ge=0,
        description="CPU threads for training; 0: as many as OMP_NUM_THREADS says, or one for each core that other "
        "programs leave free, which is looked at every ten seconds",
    )


class LoggingSpec(Section):
    """What logs each trial beside the display."""

    loggers: Names = Field(
        default=(),
        description="tensorboard, mlflow, wandb, a plug-in's name, pkg.mod:attr or file.py:attr; none for no logger",
    )

    @field_validator("loggers")
    @classmethod
    def _known_in_form(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if names == ("none",):
            return ()
        check_unique(names, may_be_empty=True)
        return tuple(check_name(LOGGERS, name) for name in names)
