"""What a file in int8 holds beside its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Int8Overhead:
    """Bytes of a file in int8 that are no tensor's: its operations, and the names of everything.

    Attributes:
        total: with all blocks in place.
        in_blocks: how many of them go with the blocks that can be dropped, in equal parts for each layer in one.
    """

    total: int
    in_blocks: int = 0

    def to_json(self) -> dict[str, int]:
        """Return plain types for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Int8Overhead:
        """Return what :meth:`to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: if it is something else.
        """
        return cls(int(stored["total"]), int(stored["in_blocks"]))
