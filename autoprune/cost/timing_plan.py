"""How a forward pass is timed: plain data, made where a study is set up."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from autoprune.core.json_values import JsonObject


@dataclass(frozen=True)
class TimingPlan:
    """How networks are timed.

    Attributes:
        runtime: what runs them: ``torch``, ``compile``, ``onnxruntime``, ``openvino``, ``cuda``, or ``auto`` until one
            is chosen.
        batch: examples in a forward pass, at least 1.
        threads: CPU threads while timing, at least 1.
        blocks: timed blocks, at least 5; the first 2 warm up.
        calls: forward passes in a block, at least 1.
        format: in which numbers: ``fp32``, ``int8``, or ``auto`` until one is chosen.
        host: name of the machine that times; empty for the one that searches.
    """

    runtime: str = "auto"
    batch: int = 1
    threads: int = 1
    blocks: int = 9
    calls: int = 5
    format: str = "fp32"
    host: str = ""

    def to_json(self) -> JsonObject:
        """Return plain types for JSON; float32 and this machine, which were all there was once, are left out."""
        usual = {"format": "fp32", "host": ""}
        return {name: value for name, value in asdict(self).items() if usual.get(name) != value}
