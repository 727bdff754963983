"""Where and how networks run: :class:`Runtime`, the device, precision, memory layout and threads.

A runtime is chosen once, by ``resolve_runtime.py``, and handed to everything that runs a network forward; nothing
else in this package asks PyTorch what the machine can do. Combined with the tasks, which place their images with it,
and with training and scoring, which run networks with it.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from autoprune.core import quiet
from autoprune.core.cores import default_threads
from autoprune.core.notify import Notify, silent
from autoprune.models.calling.tensors import map_tensors
from autoprune.training.device import thread_count
from autoprune.training.device.narrow_strides import guard_narrow_strides

Precision = Literal["fp32", "bf16"]
_Module = TypeVar("_Module", bound=nn.Module)
_Batch = TypeVar("_Batch")


@dataclass(frozen=True)
class Runtime:
    """Where and how networks run; the default is the plainest there is.

    Attributes:
        device: ``cpu``, ``cuda`` or ``mps``.
        precision: ``fp32``, or ``bf16`` for autocast with float32 weights.
        channels_last: whether images and convolution weights are laid out channels last.
        threads: CPU threads; 0 for as many as ``OMP_NUM_THREADS`` says, or one for each core that is free.
    """

    device: str = "cpu"
    precision: Precision = "fp32"
    channels_last: bool = False
    threads: int = 0

    @property
    def layout(self) -> Literal["channels_last", "contiguous"]:
        """Return the layout's name, as a spec has it."""
        return "channels_last" if self.channels_last else "contiguous"

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
        if self.device == "cpu" and self.channels_last:
            guard_narrow_strides(placed)
        return cast(_Module, placed)

    def format_of(self, images: Tensor) -> torch.memory_format:
        """Return the layout for a batch: that of images ``(N, C, H, W)``, and contiguous for anything else."""
        return self.memory_format if images.dim() == 4 else torch.contiguous_format

    def place_batch(self, batch: _Batch) -> _Batch:
        """Return a batch of any structure on the device, images in the layout."""
        return cast(_Batch, map_tensors(batch, self._placed))

    def _placed(self, tensor: Tensor) -> Tensor:
        return self.place_images(tensor) if tensor.is_floating_point() else tensor.to(self.device)

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

    def answer(self, forward: Callable[[nn.Module, _Batch], Any], network: nn.Module, batch: _Batch) -> Any:
        """Return what a network answers in this precision, of any structure, its real numbers in float32.

        Args:
            forward: (network, batch) → output.
            network: placed on the runtime.
            batch: likewise.
        """
        self.rest()
        with self.autocast():
            output = forward(network, batch)
        return map_tensors(output, _widened)

    def rest(self) -> None:
        """Wait while another process times networks on the device; to be called between two steps.

        The threads of this process keep to the cores that others leave free, if nobody has said how many there are.
        """
        quiet.rest(self.device)
        thread_count.OF_PROCESS.keep()

    def work(self) -> AbstractContextManager[None]:
        """Return a context in which steps follow one another; who times on the device waits for the end of one."""
        return quiet.work(self.device)

    def apply_threads(self, notify: Notify = silent) -> None:
        """Set how many CPU threads PyTorch uses, for the whole process.

        Args:
            notify: called with a sentence if that changes later, as other programs use more cores or fewer.
        """
        thread_count.OF_PROCESS.begin(self.threads, notify)

    def describe(self) -> dict[str, str | int]:
        """Return what matters when timings are compared: device, precision, layout, threads, versions."""
        return {
            "device": self.device,
            "device_name": _device_name(self.device),
            "precision": self.precision,
            "layout": self.layout,
            "threads": self.threads or default_threads(),
            "torch": str(torch.__version__),
            "platform": platform.platform(terse=True),
        }


def _widened(tensor: Tensor) -> Tensor:
    """Return half-precision numbers in float32; others stay what they are."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    if device == "cpu" and info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
