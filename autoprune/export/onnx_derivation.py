"""Converting pruned networks to ONNX without exporting each of them anew.

Exporting takes seconds, and a search times hundreds of networks that come from one. So the first one, the dense
network, is exported, and each further one derived from that file: its tensors take the place of those of the same name,
a block that it lacks is bypassed, and a convolution in groups gets as many as there are now. Whether the file is then
the network is not taken on trust: its answers are compared with PyTorch's on random input, and where they differ, as
they must where some other number of channels was written into an operator, the network is exported for itself.

The first one's file may be kept for other processes, and for later: it is checked by the same comparison.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.atomic_write import write_bytes
from autoprune.errors import ExportError
from autoprune.export.flat_network import FLAT_PREFIX
from autoprune.export.onnx import OnnxSession, as_bytes, onnx_model, optimized
from autoprune.models.calling.answers import answer_of, are_of_one_shape, difference
from autoprune.models.calling.inputs import Inputs
from autoprune.models.calling.tensors import tensors_in

TOLERANCE = 1e-3  # of the largest answer; float32 in another order of operations differs by about 1e-6
_SCOPES = "pkg.torch.onnx.name_scopes"


class OnnxConverter:
    """A converter of networks that come from one, for ONNX Runtime.

    Args:
        example: one batch, as :meth:`Inputs.of` takes it.
        kept: where the first one's file is kept for other processes, and read if it is there; ``None``: nowhere.

    Attributes:
        exported: how many networks were exported for themselves, the first included if it was.
        derived: how many came from the first one's file.
    """

    def __init__(self, example: object, kept: Path | None = None) -> None:
        self._example = Inputs.of(example).on("cpu")
        if self._example.is_plain:
            generator = torch.Generator().manual_seed(0)
            self._example = self._example.map(lambda x: torch.randn(x.shape, generator=generator).to(x.dtype))
        self._kept, self._first = kept, None if kept is None else _read(kept)
        self.exported = self.derived = 0

    def session(self, network: nn.Module, threads: int = 1) -> OnnxSession:
        """Return a network ready to run, checked against PyTorch.

        Args:
            network: in eval mode; not touched.
            threads: CPU threads, at least 1.

        Raises:
            ExportError: if it cannot be converted, or answers otherwise than in PyTorch.
        """
        return self.file(network, threads)[1]

    def file(self, network: nn.Module, threads: int = 1) -> tuple[bytes, OnnxSession]:
        """Return the bytes of a network's ONNX file, and what runs it; checked against PyTorch.

        Args: as for :meth:`session`.

        Raises:
            ExportError: as :meth:`session` does.
        """
        return self._derive(network, threads) or self._export(network, threads)

    def _derive(self, network: nn.Module, threads: int) -> tuple[bytes, OnnxSession] | None:
        """Return the network in the first one's file, or ``None`` if there is none or it does not hold."""
        if self._first is None:
            return None
        try:
            model = derived(self._first, _tensors(network, _prefix_of(self._first, network)))
            if model is None:
                return None
            content = as_bytes(optimized(model))
            session = OnnxSession(content, threads)
            difference = self.difference(session, network)
        except Exception:  # a number in the file does not fit these tensors, which ONNX Runtime says in many ways
            return None
        if not difference <= TOLERANCE:
            return None
        self.derived += 1
        return content, session

    def _export(self, network: nn.Module, threads: int) -> tuple[bytes, OnnxSession]:
        model = onnx_model(network, self._example, optimize=False)
        if not self.exported and not self.derived:  # the first, for which what was kept does not hold
            self._first = loosened(model)
            self._keep(self._first)
        content = as_bytes(optimized(model))
        session = OnnxSession(content, threads)
        difference = self.difference(session, network)
        if not difference <= TOLERANCE:
            raise ExportError(
                f"in ONNX Runtime the network answers otherwise than in PyTorch, by {difference:.2g} of the largest "
                f"answer; expected at most {TOLERANCE:g}. One that is random in eval mode would; time it with the "
                f"latency runtime torch"
            )
        self.exported += 1
        return content, session

    def _keep(self, model: Any) -> None:
        if self._kept is not None:
            with suppress(Exception):  # a full disk, or protobuf beyond two gigabytes: others export for themselves
                write_bytes(self._kept, model.SerializeToString())

    def difference(self, session: Callable[..., object], network: nn.Module) -> float:
        """Return how far answers are from PyTorch's, as a share of the largest one of the same tensor.

        Args:
            session: answers as the network does.
            network: in eval mode; not touched.
        """
        weight = next(network.parameters(), None)
        inputs = self._example if weight is None else self._example.on(weight.device)
        expected = [each.cpu() for each in answer_of(network, inputs)]
        answers = tensors_in(self._example.run(session))
        if not are_of_one_shape(answers, expected):
            return float("inf")
        return max(_relative(one, other) for one, other in zip(answers, expected, strict=True))


def _read(kept: Path) -> Any:
    """Return the model that is kept in a file; ``None`` if there is none, or it is damaged."""
    try:
        import onnx

        return onnx.load_from_string(kept.read_bytes())
    except Exception:  # of any kind: protobuf says in its own ways that this is no model
        return None


def _relative(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a share of the largest number; infinite where one is not a number."""
    if not expected.is_floating_point() or not expected.numel():
        return difference(found, expected)
    apart = (found.float() - expected.float()).abs().max() / expected.float().abs().max().clamp(min=1e-30)
    return float(apart) if float(apart) == float(apart) else float("inf")


def _tensors(network: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Return every parameter and buffer, stored or not, under every path it has in the file."""
    every = {
        **dict(network.named_parameters(remove_duplicate=False)),
        **dict(network.named_buffers(remove_duplicate=False)),
    }
    return {f"{prefix}{path}": tensor for path, tensor in every.items()}


def _prefix_of(model: Any, network: nn.Module) -> str:
    """Return what a file's tensors have before their path: the name under which a flattened network is held."""
    own = set(_tensors(network, ""))
    return "" if any(stored.name in own for stored in model.graph.initializer) else FLAT_PREFIX


def derived(first: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the model of a network that comes from another one, ``None`` if that cannot be said.

    Args:
        first: the ``onnx.ModelProto`` of the other one, with the exporter's notes, its tensors named as in the network;
            not changed.
        tensors: path → parameter or buffer of the network.
    """
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(first)
    graph = model.graph
    del graph.value_info[:]  # shapes of what lies between; ONNX Runtime finds the new ones
    before = {stored.name: tuple(stored.dims) for stored in graph.initializer}
    for block in _missing_blocks(before, tensors):
        if not _bypass(graph, block):
            return None
    _sweep(graph)
    for stored in graph.initializer:
        if stored.name in tensors:
            values = tensors[stored.name].detach().cpu().contiguous().numpy()
            stored.CopyFrom(onnx.numpy_helper.from_array(values, stored.name))
    _regroup(graph, before, tensors)
    return model


def loosened(model: Any) -> Any:
    """Return a copy in which less depends on the widths that were exported, for :func:`derived` to start from.

    A reshape to (examples, n), which flattens, finds n by itself. A bias that is computed is no parameter: the exporter
    writes zeros of the filters' number for a convolution without one, and they take most of an optimizer's time. Of the
    exporter's notes only those are left that say which modules a node comes from: others hold paths of this machine.

    Args:
        model: an ``onnx.ModelProto``; not changed.
    """
    copied = type(model)()
    copied.CopyFrom(model)
    graph = copied.graph
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type == "Reshape" and (last := _last_of_two(makers.get(node.input[1]), makers)) is not None:
            last[0] = -1
        if node.op_type == "Conv" and len(node.input) == 3 and node.input[2] in makers:
            del node.input[2]
    _sweep(graph)
    _forget_all_but_modules(copied)
    return copied


def _forget_all_but_modules(model: Any) -> None:
    del model.graph.value_info[:]
    for part in (model.graph, *model.functions):
        for node in part.node:
            for place in reversed(range(len(node.metadata_props))):
                if node.metadata_props[place].key != _SCOPES:
                    del node.metadata_props[place]


def _last_of_two(shape: Any, makers: Mapping[str, Any]) -> Any:
    """Return the numbers of the constant that ends a shape of two dimensions, ``None`` if there is none."""
    if shape is None or shape.op_type != "Concat" or len(shape.input) != 2:
        return None
    end = makers.get(shape.input[1])
    if end is None or end.op_type != "Constant" or len(end.attribute[0].ints) != 1:
        return None
    return end.attribute[0].ints


def _sweep(graph: Any) -> None:
    """Take out the nodes and tensors that nothing reads."""
    wanted = {output.name for output in graph.output}
    for place in reversed(range(len(graph.node))):  # in the order of computation
        node = graph.node[place]
        if wanted.isdisjoint(node.output):
            del graph.node[place]
        else:
            wanted.update(node.input)
            wanted.update(name for attribute in node.attribute for name in _outer_names(attribute.g))
    for place in reversed(range(len(graph.initializer))):
        if graph.initializer[place].name not in wanted:
            del graph.initializer[place]


def _outer_names(graph: Any) -> Iterator[str]:
    """Yield all names that the body of a loop or branch reads, those of the graph around it among them."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            yield from _outer_names(attribute.g)
    yield from (output.name for output in graph.output)


def _missing_blocks(before: Mapping[str, object], tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield the paths of the largest modules that have lost all their tensors."""
    present = {path for name in tensors for path in _modules_of(name)}
    lost = dict.fromkeys(
        next((path for path in _modules_of(name) if path not in present), "")
        for name in before
        if "." in name and name not in tensors
    )
    yield from filter(None, lost)


def _modules_of(name: str) -> list[str]:
    """Return the paths of the modules that a tensor lies in, the outermost first.

    >>> _modules_of("layer1.0.conv1.weight")
    ['layer1', 'layer1.0', 'layer1.0.conv1']
    """
    return list(accumulate(name.split(".")[:-1], "{}.{}".format))


def _bypass(graph: Any, block: str) -> bool:
    """Take a module's nodes out of a graph, so that what entered it goes on; return whether that has one meaning."""
    inside = [block in _scopes(node) for node in graph.node]
    constants = {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    known = {stored.name for stored in graph.initializer} | constants
    made = {name for node, within in zip(graph.node, inside, strict=True) if within for name in node.output}
    entering = {
        name
        for node, within in zip(graph.node, inside, strict=True)
        for name in node.input
        if within and name and name not in made and name not in known
    }
    outside = [node for node, within in zip(graph.node, inside, strict=True) if not within]
    leaving = {name for node in outside for name in node.input if name in made}
    if len(entering) != 1 or len(leaving) != 1 or any(output.name in made for output in graph.output):
        return False
    (before,), (after,) = entering, leaving
    for node in outside:
        for place, name in enumerate(node.input):
            if name == after:
                node.input[place] = before
    for place in reversed([place for place, within in enumerate(inside) if within]):
        del graph.node[place]
    return True


def _scopes(node: Any) -> tuple[str, ...]:
    """Return the paths of the modules that a node comes from, as the exporter noted them."""
    noted = next((note.value for note in node.metadata_props if note.key == _SCOPES), "()")
    return tuple(ast.literal_eval(noted))


def _regroup(graph: Any, before: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]) -> None:
    """Give convolutions whose groups have gone whole as many as are left: their filters read as many inputs as ever."""
    for node in graph.node:
        weight = node.input[1] if node.op_type == "Conv" else ""
        if weight in before and weight in tensors:
            (outputs, reads), now = before[weight][:2], tensors[weight].shape
            for attribute in node.attribute:
                if attribute.name == "group" and attribute.i > 1 and now[1] == reads:
                    attribute.i = attribute.i * now[0] // outputs
