"""Reading a file of weights without running anything that it contains."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file

from autoprune.errors import ModelError

_CLASS = re.compile(r"(?:GLOBAL|class|function) ([\w.]+\.\w+)")  # as PyTorch names what it does not read
_SHOWN = 5


def read_checkpoint(path: Path) -> object:
    """Return what a safetensors file or one of PyTorch's own holds; a pickled object is refused.

    Raises:
        ModelError: if the file is missing, damaged, or holds an object of a class, which is named.
    """
    if not path.is_file():
        raise ModelError(f"there is no weights file {str(path.absolute())!r}; check the path")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():  # about the version of a pickle that is then refused or read well
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(_foreign(path, error)) from error
    except Exception as error:  # a damaged file makes the readers raise anything
        if "TorchScript" in str(error):
            raise ModelError(
                f"the weights file {str(path)!r} is a TorchScript program, and programs in files are not run; "
                "in Python that made it, save network.state_dict() instead"
            ) from error
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"the weights file {str(path)!r} could not be read ({reason}); it may be cut short: copy it again"
        ) from error


def _foreign(path: Path, error: pickle.UnpicklingError) -> str:
    """Return the message about a file with more than tensors; PyTorch's own advises to unpickle it."""
    classes = _classes_in(path) or _CLASS.findall(str(error))[:1]
    if not classes:
        return (
            f"the weights file {str(path)!r} is damaged, or holds more than tensors. Only state dicts are read, "
            "because unpickling can run code: copy it again, or in the program that wrote it save network.state_dict()"
        )
    named = ", ".join(classes[:_SHOWN]) + (", …" if len(classes) > _SHOWN else "")
    return (
        f"the weights file {str(path)!r} holds more than tensors: objects of {named}. Only state dicts are read, "
        "because unpickling can run code: in the program that wrote it, save network.state_dict() instead"
    )


def _classes_in(path: Path) -> list[str]:
    """Return the classes and functions that a file names and that are not read; none if they cannot be listed."""
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # a file of PyTorch before 1.6, or a damaged one
        return []
    return [name for name in found if not name.startswith("builtins.")] or found
