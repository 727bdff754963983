"""The machine on which a latency was timed, as far as it says what it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autoprune.core.json_values import JsonObject

NOISY = 0.05  # standard error as a share of a latency, above which its machine was too busy to tell


@dataclass(frozen=True)
class LatencyHost:
    """A machine that times networks.

    Attributes:
        name: what it is called.
        architecture: of its processor: ``x86_64``, ``aarch64`` …
        processor: its model; empty if it does not say.
        onnxruntime: version of ONNX Runtime there.
        governor: of its processor's clock, such as ``performance``; empty if that cannot be read.
        throttled: whether it was slowed down while it timed, for heat or for want of voltage; ``None`` if that cannot
            be read.
    """

    name: str
    architecture: str
    processor: str = ""
    onnxruntime: str = ""
    governor: str = ""
    throttled: bool | None = None

    def is_same(self, other: LatencyHost) -> bool:
        """Return whether latencies of both can be compared: one name, one architecture.

        >>> LatencyHost("pi", "aarch64").is_same(LatencyHost("pi", "armv7l"))
        False
        """
        return (self.name, self.architecture) == (other.name, other.architecture)

    @property
    def described(self) -> str:
        """Return it in words.

        >>> LatencyHost("pi", "aarch64", "Raspberry Pi 5", "1.20", "ondemand", True).described
        'pi (aarch64, Raspberry Pi 5, ONNX Runtime 1.20, governor ondemand, slowed down by heat or voltage)'
        """
        known = [self.architecture, self.processor]
        known += [f"ONNX Runtime {self.onnxruntime}"] if self.onnxruntime else []
        known += [f"governor {self.governor}"] if self.governor else []
        known += ["slowed down by heat or voltage"] if self.throttled else []
        return f"{self.name} ({', '.join(filter(None, known))})"

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LatencyHost:
        """Return what :meth:`to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: if it is something else.
        """
        texts = {name: str(data.get(name) or "") for name in ("processor", "onnxruntime", "governor")}
        throttled = data.get("throttled")
        name, architecture = data["name"], data["architecture"]
        if not (isinstance(name, str) and name and isinstance(architecture, str) and architecture):
            raise ValueError(f"name is {name!r} and architecture {architecture!r}; expected text")
        return cls(name, architecture, **texts, throttled=None if throttled is None else bool(throttled))
