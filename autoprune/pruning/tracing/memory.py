"""Where tensors lie in memory, and which of them an operation writes into."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves


def memory_of(tensor: Tensor) -> int | None:
    """Return where a tensor's memory begins, ``None`` if it has none of its own, as a sparse one."""
    try:
        return int(tensor.untyped_storage().data_ptr())
    except RuntimeError:
        return None


def written_by(func: Any, args: Sequence[Any], kwargs: Mapping[str, object]) -> Iterator[Tensor]:
    """Yield the tensors that an operation writes to, according to its schema."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[place] if place < len(args) else kwargs.get(argument.name)
            yield from (leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor))
