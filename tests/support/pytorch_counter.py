"""PyTorch's own counter of FLOPs, which knows nothing of the package: the truth that counts are tested against."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode


@contextmanager
def counting_flops() -> Iterator[FlopCounterMode]:
    """Count what runs inside, where LSTMs and attention are matrix products, which the counter sees.

    A multiply–accumulate counts as two.
    """
    torch.backends.mkldnn.enabled = False
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mkldnn.enabled = True
        torch.backends.mha.set_fastpath_enabled(True)
