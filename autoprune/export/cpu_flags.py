"""What this machine's processor says it can do, as far as eight-bit arithmetic depends on it."""

from __future__ import annotations

import platform
from pathlib import Path

_X86 = ("x86_64", "amd64", "i386", "i686", "x86")
_CPUINFO = Path("/proc/cpuinfo")


def reduces_range(machine: str | None = None, flags: frozenset[str] | None = None) -> bool:
    """Return whether weights should have seven bits instead of eight.

    Without the VNNI instructions, an x86 processor adds two products of eight bits in sixteen, which overflow. Other
    processors add in thirty-two. Where nothing says what an x86 processor can do, seven bits are the safe choice.

    Args:
        machine: the architecture; ``None`` for this machine's.
        flags: what the processor says it can do; ``None`` to ask this machine's.

    >>> reduces_range("x86_64", frozenset({"avx2"})), reduces_range("x86_64", frozenset({"avx512_vnni"}))
    (True, False)
    >>> reduces_range("aarch64", frozenset())
    False

    Source: ONNX Runtime's documentation, "Quantize ONNX models", section "When and why do I need to try U8U8?".
    """
    machine = platform.machine() if machine is None else machine
    flags = cpu_flags() if flags is None else flags
    return machine.lower() in _X86 and not any("vnni" in flag for flag in flags)


def cpu_flags(file: Path = _CPUINFO) -> frozenset[str]:
    """Return the flags of the first processor; none where the system does not tell them in a file."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), ()))
