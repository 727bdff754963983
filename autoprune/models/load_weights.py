"""Reading trained weights into a network, without running anything that a file contains; and writing them.

Reads safetensors, and PyTorch's own files with ``weights_only=True``; a pickled module is refused. ``build.py`` builds
the network that the weights must fit.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from autoprune.errors import ModelError

_WRAPPERS = ("state_dict", "model", "model_state_dict")
_PARALLEL_PREFIX = "module."  # torch.nn.DataParallel puts it before every name
_BATCH_COUNT = "num_batches_tracked"
_SHOWN = 4


def load_weights(network: nn.Module, path: str | Path, former_names: Mapping[str, str] | None = None) -> None:
    """Load trained weights into a network, in place, and only if every one of them fits.

    Args:
        network: receives the weights.
        path: a ``.safetensors`` file, or a PyTorch file that holds a state dict, bare or under one of the
            keys ``state_dict``, ``model`` and ``model_state_dict``.
        former_names: what tensors may be called in the file → in the network, for a network whose wrappers are gone.

    Raises:
        ModelError: if the file is missing, damaged or a pickled object, or if names or shapes differ.
    """
    path = Path(path)
    state = _unwrap(_read(path), path, network)
    state = {(former_names or {}).get(name, name): tensor for name, tensor in state.items()}
    faults = _faults(network.state_dict(), state)
    if faults:
        raise ModelError(
            f"the weights in {str(path)!r} do not fit this network: {'; '.join(faults)}. "
            "Check that the model source, its number of classes and the file belong together."
        )
    network.load_state_dict(state, strict=False)  # checked above, but for batch counts


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


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ModelError(f"there is no weights file {str(path.absolute())!r}; check the path")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():  # about the version of a pickle that is then refused or read well
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"the weights file {str(path)!r} holds more than tensors, or is damaged. Only state dicts are read, "
            "because unpickling can run code: in the program that wrote it, save network.state_dict() instead. "
            f"({str(error).splitlines()[0]})"
        ) from error
    except Exception as error:  # a damaged file makes the readers raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"the weights file {str(path)!r} could not be read ({reason}); it may be cut short: copy it again"
        ) from error


def _unwrap(loaded: Any, path: Path, network: nn.Module) -> dict[str, Tensor]:
    for key in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ModelError(
            f"the weights file {str(path)!r} holds {type(loaded).__name__}; "
            "expected a state dict, that is names and tensors: save network.state_dict()"
        )
    own = any(name.startswith(_PARALLEL_PREFIX) for name in network.state_dict())  # it calls a module of its own so
    if loaded and not own and all(str(name).startswith(_PARALLEL_PREFIX) for name in loaded):
        return {name.removeprefix(_PARALLEL_PREFIX): value for name, value in loaded.items()}
    return loaded


def _faults(expected: dict[str, Tensor], given: dict[str, Tensor]) -> list[str]:
    """Return one phrase for what is missing, one for what is unexpected and one for what has another shape."""
    # Files older than PyTorch 0.4.1 do not count batches; only a cumulative average would miss it.
    missing = [name for name in expected if name not in given and not name.endswith(_BATCH_COUNT)]
    unexpected = [name for name in given if name not in expected]
    misshapen = [
        f"{name} is {tuple(given[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    ]
    phrases = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
    return [f"{len(names)} {phrase} ({_first(names)})" for phrase, names in phrases if names]


def _first(names: Iterable[str]) -> str:
    names = sorted(names, key=lambda name: name.endswith(_BATCH_COUNT))  # the telling ones first
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
