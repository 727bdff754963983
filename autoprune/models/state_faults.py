"""In what a file of weights differs from what a network needs: names and shapes, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

BATCH_COUNT = "num_batches_tracked"
_SHOWN = 4


def state_faults(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Return one phrase for what is missing, one for what is unexpected and one for what has another shape.

    Args:
        expected: state of the network.
        given: state of a file.
    """
    # Files older than PyTorch 0.4.1 do not count batches; only a cumulative average would miss it.
    missing = [name for name in expected if name not in given and not name.endswith(BATCH_COUNT)]
    unexpected = [name for name in given if name not in expected]
    misshapen = [
        f"{name} is {tuple(given[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    ]
    phrases = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
    return [f"{len(names)} {phrase} ({first_names(names)})" for phrase, names in phrases if names]


def first_names(names: Iterable[str]) -> str:
    """Return the first few names, the telling ones first.

    >>> first_names(["bn.num_batches_tracked", "bn.weight"])
    'bn.weight, bn.num_batches_tracked'
    """
    names = sorted(names, key=lambda name: name.endswith(BATCH_COUNT))
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
