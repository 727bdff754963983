"""The numbers of channels that kernels compute together: of other widths something is left over."""

from __future__ import annotations

KERNEL_WIDTHS = (4, 16)  # of float32 and int8 in ONNX Runtime on AVX-512, measured (docs/project/log.md)
