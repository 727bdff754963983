"""Loading trained weights into a network, only if every one of them fits; and collecting them to be written.

``read_checkpoint`` reads the file without running anything in it, ``unwrap_checkpoint`` finds the weights in what it
holds. ``build.py`` builds the network that they must fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from autoprune.core.notify import Notify, silent
from autoprune.errors import ModelError
from autoprune.models.read_checkpoint import read_checkpoint
from autoprune.models.state_faults import first_names
from autoprune.models.unwrap_checkpoint import FoundState, find_states, named_states, nearest_faults

_SHOWN = 12
_NO_OTHERS: Mapping[str, str] = {}


def load_weights(
    network: nn.Module, path: str | Path, notify: Notify = silent, *, former_names: Mapping[str, str] = _NO_OTHERS
) -> None:
    """Load trained weights into a network, in place, and only if every one of them fits.

    Args:
        network: receives the weights.
        path: a ``.safetensors`` file, or a PyTorch file that holds a state dict, bare or under keys of any name
            (``state_dict``, ``net``, ``model_ema``, …). What wrappers put before the names does not matter, and neither
            does what a profiler or an average counts beside them.
        notify: called with one sentence if a choice was made: the file also holds an average of these weights, or
            tensors that the network has no place for.
        former_names: what tensors may be called in the file → in the network, for a network whose wrappers are gone.

    Raises:
        ModelError: if the file is missing, damaged or a pickled object, if names or shapes differ, or if it holds
            several weights that would fit.
    """
    path = Path(path)
    loaded, expected = read_checkpoint(path), network.state_dict()
    found = find_states(loaded, expected, former_names)
    plain = [one for one in found if not one.is_average] or found
    if not found:
        raise ModelError(_no_fit(path, loaded, expected, former_names))
    if len(plain) > 1:
        raise ModelError(
            f"the weights file {str(path)!r} holds several weights that fit this network, under {_places(plain)}; "
            "save the ones that you mean alone in a file"
        )
    for sentence in _choices(path, plain[0], found):
        notify(sentence)
    network.load_state_dict(plain[0].state, strict=False)  # checked above, but for batch counts


def own_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's state as safetensors needs it: on the CPU, contiguous, and no two tensors in the same memory.

    A weight that two modules share is stored under both names, so that every name of the state is there.
    """
    seen, found = set[int](), {}
    for name, tensor in network.state_dict().items():
        own = tensor.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        found[name] = own.clone() if place in seen else own
        seen.add(place)
    return found


def _no_fit(path: Path, loaded: object, expected: Mapping[str, Tensor], former_names: Mapping[str, str]) -> str:
    """Return the message about a file whose weights do not fit, or that holds none."""
    faults = nearest_faults(loaded, expected, former_names)
    if not faults:
        return (
            f"the weights file {str(path)!r} holds {type(loaded).__name__}{_keys(loaded)}; "
            "expected a state dict, that is names and tensors: save network.state_dict()"
        )
    return (
        f"the weights in {str(path)!r} do not fit this network: {'; '.join(faults)}. "
        f"Check that the model source, its number of classes and the file belong together.{_keys(loaded)}"
    )


def _keys(loaded: object) -> str:
    """Return which keys a file has beside bare weights, in words; empty if it has none."""
    if not isinstance(loaded, Mapping) or (loaded and all(isinstance(value, Tensor) for value in loaded.values())):
        return ""
    shown = [f"{str(key)!r} ({_described(value)})" for key, value in list(loaded.items())[:_SHOWN]]
    return f" The file has the keys {', '.join(shown)}{', …' if len(loaded) > _SHOWN else ''}" if shown else ""


def _described(value: object) -> str:
    tensors = sum(len(state) for _, state in named_states(value))
    return f"{tensors} tensors" if tensors else type(value).__name__


def _places(found: Sequence[FoundState]) -> str:
    return " and ".join(repr(one.place) if one.place else "no key" for one in found)


def _choices(path: Path, taken: FoundState, found: Sequence[FoundState]) -> list[str]:
    """Return what was chosen for the user, in sentences."""
    said = []
    others = [one for one in found if one is not taken]
    if others:
        said.append(
            f"{str(path)!r} holds weights under {_places(found)}; those under {_places([taken])} are loaded, not their "
            "average over the training: to load that, save it alone in a file"
        )
    elif taken.left_out:
        said.append(
            f"{len(taken.left_out)} tensors in {str(path)!r} have no place in this network and are left out: "
            f"{first_names(taken.left_out)}"
        )
    return said
