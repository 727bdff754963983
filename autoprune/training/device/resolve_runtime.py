"""The choice of a runtime on this machine: which device is present, and whether bf16 pays there."""

from __future__ import annotations

from typing import cast

import torch

from autoprune.errors import UnknownNameError, UsageError
from autoprune.training.device.bf16_on_cpu import has_fast_bf16
from autoprune.training.device.runtime import Precision, Runtime

_DEVICES = ("auto", "cpu", "cuda", "mps")
_PRECISIONS = ("auto", "fp32", "bf16")
_LAYOUTS = ("auto", "measured", "channels_last", "contiguous")


def resolve_runtime(device: str = "auto", precision: str = "auto", layout: str = "auto", threads: int = 0) -> Runtime:
    """Choose where and how networks run on this machine.

    Args:
        device: ``cpu``, ``cuda``, ``mps``, or ``auto`` for the first present of cuda, mps, cpu.
        precision: ``fp32``, ``bf16``, or ``auto`` for bf16 where the hardware multiplies it faster.
        layout: ``channels_last``, ``contiguous``, or, until a study decides it, ``auto`` or ``measured`` for channels
            last except on mps, where it gains nothing.
        threads: CPU threads; 0 for as many as ``OMP_NUM_THREADS`` says, or one for each core that is free.

    Raises:
        UnknownNameError: if a word is none of these.
        UsageError: if the device is absent, or the number of threads negative.
    """
    _check_word("device", device, _DEVICES)
    _check_word("precision", precision, _PRECISIONS)
    _check_word("layout", layout, _LAYOUTS)
    if threads < 0:
        raise UsageError(f"threads is {threads}; expected 0 (all) or more")
    device = _present_device(device)
    if precision == "auto":
        precision = "bf16" if _has_fast_bf16(device) else "fp32"
    channels_last = device != "mps" if layout in ("auto", "measured") else layout == "channels_last"
    return Runtime(device, cast(Precision, precision), channels_last, threads)


def _check_word(kind: str, word: str, known: tuple[str, ...]) -> None:
    if word not in known:
        raise UnknownNameError(kind, word, known)


def _present_device(device: str) -> str:
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, here in present.items() if here)
    if not present[device]:
        others = ", ".join(name for name, here in present.items() if here)
        raise UsageError(
            f"device {device!r} was given, but PyTorch {torch.__version__} finds none here; "
            f"present: {others}. Use one of these or 'auto', or install a PyTorch built for {device}."
        )
    return device


def _has_fast_bf16(device: str) -> bool:
    """Return whether bf16 pays: on a GPU with native support, or a CPU that multiplies it faster than float32."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0) or bool(torch.version.hip)
    return device == "cpu" and has_fast_bf16()
