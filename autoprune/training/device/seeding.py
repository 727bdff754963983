"""Seeding that leaves no trace: random streams and cuDNN's settings are put back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, device: str = "cpu") -> Iterator[None]:
    """Seed PyTorch for a stretch of code, choose deterministic kernels, and put everything back at the end.

    This covers what takes no generator: initialisation and dropout. On CUDA it also forbids cuDNN's benchmarking,
    which may choose another algorithm, hence other bits, in another run.
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
