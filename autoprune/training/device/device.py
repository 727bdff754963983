"""Where and how networks run: device, precision, memory layout, threads, seeds and modes.

A :class:`Runtime` is decided once by :func:`resolve_runtime` and handed to everything that runs a network
forward; nothing else in the room asks PyTorch what the machine can do. Combined with ``tasks`` (which
places images with it), ``finetune``, ``teacher`` and ``score`` (which run networks with it).
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from autoprune.core.cores import available_cores
from autoprune.errors import ModelError, UnknownNameError, UsageError

Precision = Literal["fp32", "bf16"]
_Module = TypeVar("_Module", bound=nn.Module)

_DEVICES = ("auto", "cpu", "cuda", "mps")
_PRECISIONS = ("auto", "fp32", "bf16")
_LAYOUTS = ("auto", "channels_last", "contiguous")


@dataclass(frozen=True)
class Runtime:
    """Say where and how networks run; the default is the plainest there is.

    Attributes:
        device: ``cpu``, ``cuda`` or ``mps``.
        precision: ``fp32``, or ``bf16`` for autocast with float32 weights.
        channels_last: whether images and convolution weights are laid out channels last.
        threads: CPU threads; 0 for one on each core this process may use.
    """

    device: str = "cpu"
    precision: Precision = "fp32"
    channels_last: bool = False
    threads: int = 0

    @property
    def memory_format(self) -> torch.memory_format:
        """Return the layout that images and convolution weights are given."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def place(self, network: _Module) -> _Module:
        """Move a network to the device and layout, in place, and return it; its values do not change."""
        # channels_last is defined for four dimensions only, and Module.to would also try 3d convolutions.
        if any(parameter.dim() > 4 for parameter in network.parameters()):
            return network.to(self.device)
        placed = network.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload]
        return cast(_Module, placed)

    def format_of(self, images: Tensor) -> torch.memory_format:
        """Return the layout for a batch: that of images ``(N, C, H, W)``, and contiguous for anything else."""
        return self.memory_format if images.dim() == 4 else torch.contiguous_format

    def place_images(self, images: Tensor) -> Tensor:
        """Move images ``(N, C, H, W)``, or other examples ``(N, …)``, to the device and layout."""
        layout = self.format_of(images)
        images = images.to(self.device, non_blocking=True).contiguous(memory_format=layout)
        # Images of one channel fit both layouts whatever their strides, and a convolution goes by the strides.
        return images if layout == torch.channels_last else images.view(-1).view(images.shape)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Run forward passes in this precision for a stretch of code."""
        with ExitStack() as stack:
            if self.precision == "bf16":
                stack.enter_context(torch.autocast(self.device, dtype=torch.bfloat16))
            if self.precision == "bf16" and self.device == "cpu":
                # The backward pass of PyTorch's fused attention takes 16 times as long in bf16 as in fp32 on a CPU
                # (66 against 4 ms for 64 × 64 tokens of width 64, PyTorch 2.15); plain matrix products do not.
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield

    def logits(self, network: nn.Module, images: Tensor, num_classes: int) -> Tensor:
        """Run a classifier in this precision and return float32 logits ``(N, num_classes)``.

        Raises:
            ModelError: if the network answers anything but one row of ``num_classes`` numbers for each image.
        """
        with self.autocast():
            output = network(images)
        expected = (len(images), num_classes)
        if not isinstance(output, Tensor) or output.shape != expected:
            given = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise ModelError(
                f"the network answered {given} to {len(images)} images; expected one tensor of shape {expected}. "
                "Build it with as many outputs as the data has classes, and without auxiliary outputs."
            )
        return output.float()

    def apply_threads(self) -> None:
        """Tell PyTorch how many CPU threads to use, for the whole process."""
        torch.set_num_threads(self.threads or available_cores())

    def describe(self) -> dict[str, str | int]:
        """Return what a reader needs to compare timings: device, precision, layout, threads, versions."""
        return {
            "device": self.device,
            "device_name": _device_name(self.device),
            "precision": self.precision,
            "layout": "channels_last" if self.channels_last else "contiguous",
            "threads": self.threads or available_cores(),
            "torch": str(torch.__version__),
            "platform": platform.platform(terse=True),
        }


def resolve_runtime(device: str = "auto", precision: str = "auto", layout: str = "auto", threads: int = 0) -> Runtime:
    """Decide where and how networks run on this machine.

    Args:
        device: ``cpu``, ``cuda``, ``mps``, or ``auto`` for the first present of cuda, mps, cpu.
        precision: ``fp32``, ``bf16``, or ``auto`` for bf16 where the hardware multiplies it natively.
        layout: ``channels_last``, ``contiguous``, or ``auto`` for channels last except on mps, where it gains nothing.
        threads: CPU threads; 0 for one on each core this process may use.

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
    channels_last = device != "mps" if layout == "auto" else layout == "channels_last"
    return Runtime(device, cast(Precision, precision), channels_last, threads)


@contextmanager
def seeded(seed: int, device: str = "cpu") -> Iterator[None]:
    """Seed PyTorch for a stretch of code, choose deterministic kernels, and put everything back at the end.

    Covers what cannot be handed a generator: initialisation and dropout. On CUDA it also forbids cuDNN's
    benchmarking, which may choose another algorithm, hence other bits, in another run.
    """
    mps_state = torch.mps.get_rng_state() if device == "mps" else None
    indices = [torch.cuda.current_device()] if device == "cuda" else []
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    with torch.random.fork_rng(devices=indices):
        cudnn.deterministic, cudnn.benchmark = True, False
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed devices we do not put back
        if device == "cuda":
            torch.cuda.manual_seed(seed)
        if device == "mps":
            torch.mps.manual_seed(seed)
        try:
            yield
        finally:
            cudnn.deterministic, cudnn.benchmark = before
            if mps_state is not None:
                torch.mps.set_rng_state(mps_state)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Hold a network in evaluation mode, then give every module the mode it had."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


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
            f"device {device!r} was asked for, but PyTorch {torch.__version__} does not see one here; "
            f"present: {others}. Use one of these or 'auto', or install a PyTorch built for {device}."
        )
    return device


def _has_fast_bf16(device: str) -> bool:
    """Say whether bf16 is worth it: on a GPU with native support, or a CPU with AVX512-BF16 or AMX."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0) or bool(torch.version.hip)
    return device == "cpu" and _cpu_has_bf16()


def _cpu_has_bf16() -> bool:
    flags = ("avx512_bf16", "amx_bf16")
    if hasattr(torch.cpu, "get_capabilities"):  # torch ≥ 2.11
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(flag) is True for flag in flags)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        probe = getattr(torch.cpu, name, None)
        if probe is not None and probe():
            return True
    info = Path("/proc/cpuinfo")
    return info.exists() and any(flag in info.read_text(encoding="utf-8", errors="replace") for flag in flags)


def _device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    if device == "cpu" and info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
