"""The trace of a network: forward passes, and from their operations, which channels are the same.

A dispatch mode sees every operation with the parameters it uses. ``rule_table.py`` holds, for each, how the channels
of its inputs become those of its output; modules with heads are seen from outside only. No class is known beyond
those of ``layers/``, so any network that runs can be traced. What cannot be followed is frozen, with the line of the
user's code where it was lost, if it reaches the output. ``whole_trace.py`` runs the passes.
"""

from __future__ import annotations

import linecache
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakIdKeyDictionary

from autoprune.models.calling import inputs
from autoprune.models.calling.tensors import tensors_in
from autoprune.pruning.layers.axes import Axis, LayerKind
from autoprune.pruning.layers.kinds import axes_of, kind_of
from autoprune.pruning.tracing.channel_union import Channels
from autoprune.pruning.tracing.derived_weights import DerivedWeights
from autoprune.pruning.tracing.loss_flow import LossFlow
from autoprune.pruning.tracing.memory import written_by
from autoprune.pruning.tracing.operation import operation
from autoprune.pruning.tracing.rule_helpers import Findings, Fold, Product, follow_unknown
from autoprune.pruning.tracing.rule_table import MAKES, READS_WEIGHTS, RULES
from autoprune.pruning.tracing.statistics import REDUCTIONS, Statistic
from autoprune.pruning.tracing.tensor_names import holder_of, shared_tensors, tensor_paths
from autoprune.pruning.tracing.tied_weights import TiedWeights

_CALLS = str(Path(inputs.__file__))  # the network; what runs outside of it is not the user's
NOT_THE_USERS = (str(Path(__file__).parents[1]) + os.sep, str(Path(torch.__file__).parent) + os.sep, _CALLS, "<")
_LARGEST = 1_000_000  # elements of a bare parameter that are followed one by one
_CHOOSES = {"index", "index_put", "masked_select", "nonzero"}  # by a mask


class OutOfTime(Exception):
    """Tracing took longer than it may."""


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode in which the atoms of its channels accompany every activation of one forward pass.

    Attributes:
        channels: what is known so far; the passes of one trace share it.
        findings: what else was seen, of all passes.
        is_exact: whether every number was in float64.

    Args:
        network: the one that runs.
        findings: what earlier passes found; this one adds to it.
        channels: likewise.
        deadline: ``time.process_time()`` after which tracing is given up.
    """

    def __init__(
        self,
        network: nn.Module,
        findings: Findings | None = None,
        channels: Channels | None = None,
        deadline: float = float("inf"),
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.network, self.deadline = network, deadline
        self.channels = channels or Channels()
        self.channels.whereabouts = self._whereabouts
        self.findings = findings or Findings()
        self.is_exact = True
        self._labels: Any = WeakIdKeyDictionary()
        self._fresh: Any = WeakIdKeyDictionary()
        self._paths = tensor_paths(network)
        self._shared, self._tied = shared_tensors(network), TiedWeights(network)
        self._weights = DerivedWeights(network, self._paths)
        self._losses = LossFlow()
        self._opaque = self._operations = 0
        self._reductions = Counter[str]()
        self._running: list[str] = [""]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and follow the channels through it."""
        kwargs = kwargs or {}
        if time.process_time() > self.deadline:
            raise OutOfTime
        name = operation(func)
        if name.rstrip("_") in _CHOOSES:
            args = tree_map(_some, args)
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and result.is_floating_point() and result.dtype != torch.float64:
            self.is_exact = False
        taken = tensors_in(args, kwargs)
        self.findings.used.update(self._paths[id(tensor)] for tensor in taken if id(tensor) in self._paths)
        if not self._opaque:
            self._follow(func, args, kwargs, result, taken)
        self._reductions[self._running[-1]] += name in REDUCTIONS
        return result

    def _follow(self, func: Any, args: Any, kwargs: Any, result: Any, taken: list[Tensor]) -> None:
        name, made = operation(func), tensors_in(result)
        self._operations += 1
        if self._is_fresh(name, taken):
            for tensor in made:
                self._fresh[tensor] = True
            return
        data = taken[:1] if name in READS_WEIGHTS else taken
        if not any(map(self._is_activation, taken)) and self._weights.note(name, data, made):
            return
        with self.channels.holding() as lost:
            self._apply_rule(func, args, kwargs, result)
        losses = self._losses.of(taken) | frozenset(lost)
        if losses:
            self._losses.add([*made, *written_by(func, args, kwargs)], losses)

    def _is_activation(self, tensor: Tensor) -> bool:
        return self._labels.get(tensor) is not None and not self._weights.knows(tensor)

    def _apply_rule(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        name = operation(func)
        rule = RULES.get(name) or RULES.get(name.rstrip("_"))
        if rule is None:
            rule = RULES["add"] if torch.Tag.pointwise in func.tags else follow_unknown
        try:
            rule(self, func, args, kwargs, result)
        except Exception:  # a rule cannot foresee every use of an operation, and a lost channel is only frozen
            follow_unknown(self, func, args, kwargs, result)

    def _is_fresh(self, name: str, taken: list[Tensor]) -> bool:
        """Return whether an operation makes numbers out of none but sizes; where they meet channels, they follow."""
        if name in MAKES:
            return not any(id(tensor) in self._paths for tensor in taken)
        return bool(taken) and all(tensor in self._fresh for tensor in taken)

    # what rules read and write

    def labels(self, tensor: Any) -> Tensor | None:
        """Return the atoms of an activation or bare parameter, ``None`` if it has no channels that can be cut."""
        if not isinstance(tensor, Tensor):
            return None
        found: Tensor | None = self._labels.get(tensor)
        if found is None and id(tensor) in self._paths and tensor.numel() > 1 and tensor.is_floating_point():
            found = self._elements(tensor)
        return found

    def _elements(self, tensor: Tensor) -> Tensor | None:
        path = self._paths[id(tensor)]
        if tensor.numel() > _LARGEST or path in self._shared:
            return None
        if (of_layer := self._along_axis(path, tensor)) is not None:
            return of_layer
        self.findings.shapes[path] = tuple(tensor.shape)
        return self.channels.atoms(path, "elements", tensor.numel()).view(tensor.shape)

    def _along_axis(self, path: str, tensor: Tensor) -> Tensor | None:
        """Return the atoms of a layer's parameter along its one dimension of channels, ``None`` of any other tensor."""
        layer = holder_of(path)
        module = self.network.get_submodule(layer)
        name = path.removeprefix(f"{layer}.")
        axes = [axis for axis in axes_of(module) if axis.tensor == name]
        kind = kind_of(module)
        if kind is None or len(axes) != 1 or axes[0] != Axis(name, axes[0].dim, axes[0].side):
            return None
        count, dim = kind.sizes(module)[axes[0].side], axes[0].dim
        if tensor.shape[dim] != count:
            return None
        line = [count if d == dim else 1 for d in range(tensor.dim())]
        return self.side(layer, axes[0].side, count).view(line).expand(tensor.shape)

    def set_labels(self, tensor: Any, labels: Tensor | None) -> None:
        """Note the atoms of a result."""
        if not isinstance(tensor, Tensor):
            return
        self._fresh.pop(tensor, None)
        if labels is None:
            self._labels.pop(tensor, None)
        else:
            self._labels[tensor] = labels.expand(tensor.shape)

    def is_fresh(self, tensor: Any) -> bool:
        """Return whether a tensor was made out of nothing but sizes, as zeros are."""
        return isinstance(tensor, Tensor) and tensor in self._fresh

    def layer(self, weight: Any) -> tuple[str, nn.Module, LayerKind] | None:
        """Return the layer that owns a weight or computed it: its path, the module and its kind; ``None`` if none."""
        path = self._weights.layer_of(weight)
        if path is None:
            if id(weight) not in self._paths:
                return None
            path = self._paths[id(weight)].rpartition(".")[0]
            if self._tied.holds(self._running[-1], weight):
                path = self._running[-1]
        module = self.network.get_submodule(path)
        kind = kind_of(module)
        return (path, module, kind) if kind is not None else None

    def statistic_in(self, weight: Any) -> str:
        """Return the statistic by which a layer's weight was computed; empty if it was not."""
        return self._weights.statistic_in(weight)

    def is_turned(self, weight: Any) -> bool:
        """Return whether a layer's weight was transposed before it is used."""
        return self._weights.is_turned(weight)

    def origin_of(self, tensor: Tensor) -> str | None:
        """Return the parameter or buffer that a tensor is, or was computed from alone, as by expanding it."""
        return self.path_of(tensor) or self._weights.origin_of(tensor)

    def matrix_of(self, weight: Any) -> tuple[str, tuple[str, ...]] | None:
        """Return whose weight a matrix is, or was computed from, and what its dimensions are; ``None`` if no one's."""
        owner = self.layer(weight)
        if owner is not None and isinstance(owner[1], nn.Linear):
            path = owner[0]
            sides: tuple[str, ...] = ("out", "in")
        else:
            bare = self.path_of(weight) or self._weights.matrix_of(weight)
            if bare is None:
                return None
            path, sides = bare, tuple(f"dim{dim}" for dim in range(weight.dim()))
        return path, sides[::-1] if self.is_turned(weight) else sides

    def running(self) -> tuple[str, nn.Module, LayerKind] | None:
        """Return the innermost module that is running, if it is a layer of a known kind."""
        module = self.network.get_submodule(self._running[-1])
        kind = kind_of(module)
        return (self._running[-1], module, kind) if kind else None

    def path_of(self, tensor: Any) -> str | None:
        """Return the path of a parameter or buffer."""
        return self._paths.get(id(tensor))

    def side(self, path: str, side: str, count: int) -> Tensor:
        """Return the atoms of one side of a layer; those of layers that share a weight are the same along it."""
        atoms = self.channels.atoms(path, side, count)
        partners = self._tied.partners(path, side)
        if partners is None:
            self.channels.freeze_now(atoms, f"{path} shares its weight with {self._shared[path]}")
        for other, its_side, size in partners or ():
            self.channels.unite(atoms, self.channels.atoms(other, its_side, size))
        return atoms

    def note_statistic(self, dim: int, atoms: Tensor) -> None:
        """Record that the running operation is a statistic over channels; only evaluation is ever compared."""
        if not self.network.training:
            module = self._running[-1]
            self.findings.statistics.append(Statistic(module, self._reductions[module], dim, atoms))

    def note_product(self, macs: int, *factors: Tensor, weight: str = "") -> None:
        """Record the multiply–accumulates of a product, and the channels along its dimensions that are some."""
        if not self.network.training:
            self.findings.products.append(Product(self._running[-1], macs, factors, weight))

    def fold_kept(self, sizes: tuple[int, ...], open_part: int | None, usual: int, labels: Tensor) -> int:
        """Return which of the parts that channels are folded into gets shorter.

        Unless the fold is turned, it is the part whose size the code leaves open, else the usual one.

        Args:
            sizes: of the parts.
            open_part: which of them is left open, ``None`` if none is.
            usual: which of them gets shorter if none is left open.
            labels: the channels.
        """
        key = (self.network.training, self._operations)
        last, is_open = len(sizes) - 1, open_part is not None
        choices = tuple(dict.fromkeys((usual if open_part is None else open_part, 0, last, *range(last))))
        self.findings.folds.append(Fold(key, labels, choices, is_open, (self._running[-1], sizes)))
        wanted: int = self.findings.turns.get(key, choices[0])
        return min(wanted, last)

    # modules that are seen from outside

    def enter(self, path: str, is_opaque: bool) -> None:
        """Note that a module begins; operations in one with heads are ignored."""
        self._running.append(path)
        self.findings.begun.setdefault(path, len(self.findings.begun))
        self._opaque += is_opaque

    def leave(self, path: str, module: nn.Module, is_opaque: bool, given: Any, result: Any) -> None:
        """Note that a module has returned; one with heads was seen from outside only."""
        self._running.pop()
        self._opaque -= is_opaque
        if not is_opaque or self._opaque:
            return
        kind = kind_of(module)
        sizes = kind.sizes(module) if kind else {}
        for side, count in sizes.items():
            self.side(path, side, count)
        for value in tensors_in(given):
            labels = self.labels(value)
            if labels is not None and value.shape[-1] == sizes["in"]:
                self.channels.unite(labels, self.side(path, "in", sizes["in"]).expand_as(labels))
        first = result[0] if isinstance(result, tuple) else result
        self.set_labels(first, self.side(path, "out", sizes["out"]))
        self._losses.add(tensors_in(result), self._losses.of(tensors_in(given)))

    def end(self, result: Any, reason: str) -> None:
        """Freeze what the network returns, and what was lost on the way to it."""
        returned = tensors_in(result)
        for tensor in returned:
            self.channels.freeze(self.labels(tensor), reason, here=False)
        self.channels.freeze_lost(self._losses.of(returned))

    def _whereabouts(self) -> str:
        """Return the innermost line of code outside of PyTorch and of this package."""
        frame = sys._getframe()
        while frame.f_code.co_filename.startswith(NOT_THE_USERS):
            if frame.f_back is None or frame.f_code.co_filename == _CALLS:
                return ""
            frame = frame.f_back
        code = frame.f_code
        line = linecache.getline(code.co_filename, frame.f_lineno, frame.f_globals).strip()
        return f" ({Path(code.co_filename).name}:{frame.f_lineno}, in {code.co_name}: {line})"


def _some(value: Any) -> Any:
    """Return a mask that chooses all instead of one that chooses nothing, which would hide what is done with it."""
    if isinstance(value, Tensor) and value.dtype == torch.bool and value.numel() and not bool(value.any()):
        return torch.ones_like(value)
    return value
