"""The contract of an export format, as a check that plug-ins run in their tests."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from autoprune.errors import ExportError, UsageError
from autoprune.export.convert import format_of
from autoprune.export.export_result import TOLERANCE
from autoprune.export.formats import ExportFormat
from autoprune.models.calling.answers import are_of_one_shape, difference, magnitude
from autoprune.models.calling.inputs import Inputs
from autoprune.models.calling.tensors import tensors_in

SIZES = (1, 3)  # numbers of examples, neither of them that of the export


def check_format(form: ExportFormat | str, network: nn.Module, examples: object, folder: Path) -> None:
    """Raise if a format breaks its contract on a network.

    It writes the files that it names into the folder that it is given, twice the same way, and leaves the network as it
    was. What it opens answers as the network does, to any number of examples, on one thread and on two.

    Args:
        form: the format, or a name as for ``--export``.
        network: in eval mode, on the CPU.
        examples: a batch of at least 3, as :meth:`Inputs.of` takes it.
        folder: an empty one.

    Raises:
        AssertionError: if the contract is broken; the message says how.
        UsageError: if there is no such format.
    """
    found, inputs = form if isinstance(form, ExportFormat) else format_of(form), Inputs.of(examples)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    places = [folder / "one", folder / "other"]
    for place in places:
        place.mkdir()
        _exported(found, network, inputs.first(2), place)
    changed = [name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])]
    if changed or network.training:
        raise AssertionError(f"export changes the network: {', '.join(changed) or 'it is in training mode'}")
    strays = sorted(path.name for path in folder.iterdir() if path not in places)
    if strays:
        raise AssertionError(f"export writes {', '.join(strays)} outside of the folder that it is given")
    for threads, place in enumerate(places, start=1):
        for size in SIZES:
            _check_answers(found, place, threads, network, inputs.first(size))


def _exported(form: ExportFormat, network: nn.Module, example: Inputs, place: Path) -> None:
    try:
        form(network, example, place)
        missing = [name for name in form.files if not (place / name).is_file()]
        form.facts(place)
    except Exception as error:  # a plug-in may raise anything
        raise AssertionError(f"export fails with {type(error).__name__}: {error}") from error
    if missing:
        raise AssertionError(f"export does not write {', '.join(missing)}, which it names")


def _check_answers(form: ExportFormat, place: Path, threads: int, network: nn.Module, inputs: Inputs) -> None:
    try:
        with torch.inference_mode():
            found = tensors_in(inputs.run(form.open(place, threads)))
    except (ExportError, UsageError, RuntimeError, ValueError, TypeError) as error:
        raise AssertionError(f"what it opens does not take {inputs.size} examples: {error}") from error
    with torch.inference_mode():
        expected = tensors_in(inputs.run(network))
    if not are_of_one_shape(found, expected):
        shapes = [[tuple(one.shape) for one in each] for each in (expected, found)]
        raise AssertionError(f"it answers with tensors of shapes {shapes[1]}; expected {shapes[0]}")
    apart = max(difference(one, other) for one, other in zip(found, expected, strict=True))
    largest = max(map(magnitude, expected))
    if not apart <= TOLERANCE * max(1.0, largest):
        raise AssertionError(f"it answers otherwise than PyTorch by up to {apart:.3g}, the largest being {largest:.3g}")
