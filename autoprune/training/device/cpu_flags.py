"""What this machine's CPU multiplies fast, as far as it can be told."""

from __future__ import annotations

from pathlib import Path

import torch

_CPU_INFO = Path("/proc/cpuinfo")


def has_amx() -> bool:
    """Return whether the CPU has Intel's AMX, which multiplies matrices in bf16 many times faster than in float32."""
    return _has("amx_bf16")


def has_fast_bf16() -> bool:
    """Return whether the CPU has AMX, or is one of AMD's with AVX512-BF16.

    Intel's AVX512-BF16 takes one such product per cycle where it takes two of float32, and a ResNet-56 trains at 0.7 to
    0.9 of the speed; on AMD's it trains at 1.5 times the speed.
    """
    return has_amx() or (_has("avx512_bf16") and "GenuineIntel" not in _cpu_info())


def _has(flag: str) -> bool:
    if hasattr(torch.cpu, "get_capabilities"):  # torch ≥ 2.11
        return torch.cpu.get_capabilities().get(flag) is True
    return flag in _cpu_info()


def _cpu_info() -> str:
    """Return what Linux says of its processors; elsewhere nothing."""
    return _CPU_INFO.read_text(encoding="utf-8", errors="replace") if _CPU_INFO.exists() else ""
