"""Which parameter a weight was computed from, as one that is normalised before it is used, wherever that happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from autoprune.models.calling.tensors import tensors_in


class ComputedWeights(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode that follows what is computed from parameters alone.

    Args:
        stored: returns the path of the parameter in whose memory a tensor lies, ``None`` for any other tensor.
    """

    def __init__(self, stored: Callable[[Tensor], str | None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._stored = stored
        self._computed: Any = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and note which parameter its results come from."""
        result = func(*args, **(kwargs or {}))
        read = [(tensor.numel(), self.path_of(tensor)) for tensor in tensors_in(args, kwargs) if tensor.numel() > 1]
        if read and all(path is not None for _, path in read):
            for made in tensors_in(result):
                # of a direction and its length, the weight is the one that is as large
                paths = {path for numel, path in read if numel == made.numel()} or {path for _, path in read}
                if len(paths) == 1:
                    self._computed[made] = paths.pop()
        return result

    def path_of(self, tensor: Tensor) -> str | None:
        """Return the parameter that a tensor is, or was computed from; ``None`` if it comes from anything else."""
        found: str | None = self._computed.get(tensor)
        return self._stored(tensor) or found
