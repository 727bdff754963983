"""The names of what goes into an ONNX graph and comes out, given so that nothing inside has the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def temporary_names(kind: str, count: int) -> list[str]:
    """Return names that an exporter gives to nothing of its own.

    >>> temporary_names("input", 2)
    ['autoprune.input.0', 'autoprune.input.1']
    """
    return [f"autoprune.{kind}.{place}" for place in range(count)]


def name_ends(model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give inputs and outputs other names, in place; what has one of them inside the graph gets another.

    Args:
        model: an ``onnx.ModelProto``.
        inputs: a name for each input, all different from each other and from those of outputs.
        outputs: a name for each output.
    """
    ends = [end.name for end in (*model.graph.input, *model.graph.output)]
    names = dict(zip(ends, (*inputs, *outputs), strict=True))
    inner = {name: f"{name}.inner" for name in names.values() if name not in names}
    _rename(model.graph, {**inner, **names})


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    """Give tensors other names wherever they stand, in the bodies of loops and branches too."""
    for stored in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        stored.name = names.get(stored.name, stored.name)
    for node in graph.node:
        for row in (node.input, node.output):
            for place, name in enumerate(row):
                row[place] = names.get(name, name)
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _rename(body, names)
