"""Finding a network's weights in what a program saved: under which key they lie, and what stands before their names.

A training program saves more than weights (``epoch``, ``optimizer``), under a key of its own (``net``, ``params``,
``model_ema``), and wrappers lengthen the names: ``module.`` of data parallel and averaged models, ``_orig_mod.`` of
compiled ones, ``model.`` of Lightning. No list of keys is needed: weights are those whose names and shapes are all the
network has. ``load_weights`` reads the file and loads what is found here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from autoprune.models.state_faults import BATCH_COUNT, state_faults

# parts of a name that a wrapper puts in: data parallel and averaged models, compiled ones, Fabric, FSDP, checkpointing
_WRAPPERS = {"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_BOOKKEEPING = {"total_ops", "total_params", "n_averaged"}  # of thop and of torch.optim.swa_utils, at the end of a name
_AVERAGE = re.compile(r"(?:^|[._])(?:ema|avg|averaged?|swa|shadow)(?:$|[._])")
_DEPTH = 4  # dictionaries in dictionaries that are looked into
_NO_OTHERS: Mapping[str, str] = {}


@dataclass(frozen=True)
class FoundState:
    """Weights that fit a network.

    Attributes:
        place: where they lie, such as ``model`` or ``state_dict: model.*``; empty if nothing stands around them.
        state: the weights, under the network's own names.
        left_out: tensors beside them that the network has no place for.
        is_average: whether they are an average over the training, by their name.
    """

    place: str
    state: Mapping[str, Tensor]
    left_out: tuple[str, ...] = ()
    is_average: bool = field(default=False, kw_only=True)

    def equals(self, other: FoundState) -> bool:
        """Return whether both hold the same numbers."""
        return self.state.keys() == other.state.keys() and all(
            torch.equal(tensor, other.state[name]) for name, tensor in self.state.items()
        )


def find_states(
    loaded: object, expected: Mapping[str, Tensor], former_names: Mapping[str, str] = _NO_OTHERS
) -> list[FoundState]:
    """Return every place of a file whose names and shapes are a network's; equal ones once.

    >>> weights = {"weight": torch.ones(2)}
    >>> [one.place for one in find_states({"epoch": 3, "net": {"module.weight": torch.zeros(2)}}, weights)]
    ['net: module.*']

    Args:
        loaded: what a file of weights held.
        expected: state of the network.
        former_names: what a tensor may be called in the file → in the network, for a network whose wrappers are gone.
    """
    found: list[FoundState] = []
    for place, state in named_states(loaded):
        for one in _readings(place, _renamed(state, former_names), expected):
            if not any(one.equals(other) for other in found):
                found.append(one)
    return found


def named_states(loaded: object, place: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield every dictionary of names and tensors, outermost first, with the keys that lead to it."""
    if not isinstance(loaded, Mapping) or depth > _DEPTH:
        return
    tensors = {name: value for name, value in loaded.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield place, tensors
    for key, value in loaded.items():
        yield from named_states(value, f"{place}.{key}".lstrip("."), depth + 1)


def nearest_faults(
    loaded: object, expected: Mapping[str, Tensor], former_names: Mapping[str, str] = _NO_OTHERS
) -> list[str]:
    """Return in what the weights that come nearest to a network's differ from them; empty if there are no weights."""
    states = [_renamed(state, former_names) for _, state in named_states(loaded)]
    readings = [reading for state in states for reading in (state, *_without_prefixes(state, expected))]
    if not readings:
        return []
    return state_faults(expected, max(readings, key=lambda state: len(expected.keys() & state.keys())))


def _renamed(state: dict[str, Tensor], former_names: Mapping[str, str]) -> dict[str, Tensor]:
    """Return a state under the names that its tensors have now, if that keeps them apart."""
    renamed = {former_names.get(name, name): tensor for name, tensor in state.items()}
    return renamed if len(renamed) == len(state) else state


def _readings(place: str, state: dict[str, Tensor], expected: Mapping[str, Tensor]) -> list[FoundState]:
    """Return how a dictionary can be read so that it fits: as it is, or else without what stands before its names."""
    if not state_faults(expected, state):
        return [FoundState(place, state, is_average=_is_average(place, state))]
    names, network = _plain_names(state), _plain_names(expected)
    found = []
    for prefix in _prefixes(names, network):
        inside = {name: own for name, own in names.items() if name.startswith(prefix)}
        fitting = {network.get(name.removeprefix(prefix), name): state[own] for name, own in inside.items()}
        left_out = tuple(own for name, own in names.items() if name not in inside)
        if not state_faults(expected, fitting) and (prefix or not left_out):
            before = next(iter(inside.values())).removesuffix(next(iter(fitting)))
            where = f"{place}: {before}*".removeprefix(": ") if before else place
            found.append(FoundState(where, fitting, left_out, is_average=_is_average(where, state)))
    return found


def _without_prefixes(state: dict[str, Tensor], expected: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    names, network = _plain_names(state), _plain_names(expected)
    for prefix in _prefixes(names, network):
        inside = {name.removeprefix(prefix): own for name, own in names.items() if name.startswith(prefix)}
        yield {network.get(name, name): state[own] for name, own in inside.items()}


def _plain_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return plain name → name in the state: without the parts of wrappers, if that keeps them apart.

    What is bookkeeping of a wrapper or a profiler has no plain name.
    """
    kept = [name for name in state if name.rpartition(".")[2] not in _BOOKKEEPING]
    plain = {".".join(part for part in name.split(".") if part not in _WRAPPERS): name for name in kept}
    return plain if len(plain) == len(kept) else {name: name for name in kept}


def _prefixes(names: Mapping[str, str], network: Mapping[str, str]) -> list[str]:
    """Return what may stand before the network's names, the shortest first."""
    first = next((name for name in network if not name.endswith(BATCH_COUNT)), None)
    if first is None:
        return []
    before = {name.removesuffix(first) for name in names if f".{name}".endswith(f".{first}")}
    return sorted(before, key=lambda prefix: (len(prefix), prefix))


def _is_average(place: str, state: Mapping[str, Tensor]) -> bool:
    """Return whether weights are an average over the training, by what stands around them.

    >>> _is_average("model_ema.module", {}), _is_average("schema", {})
    (True, False)
    """
    return bool(_AVERAGE.search(place)) or "n_averaged" in state
