"""Convert networks that differ in widths alone without exporting each of them anew.

Exporting takes seconds, and a search times hundreds of networks of one structure. So the first one is exported, and for
each further one the tensors in that file are replaced by its own. Whether the file is then the network is not taken on
trust: its answers are compared with PyTorch's on random input, and where they differ, as they must where a number of
channels was written into an operator, the network is exported for itself. Networks with other blocks dropped have
other tensors, so they begin a structure of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.errors import ExportError
from autoprune.export.onnx import OnnxSession, onnx_bytes

TOLERANCE = 1e-3  # of the largest answer; float32 in another order of operations differs by about 1e-6
STRUCTURES = 16  # kept; each is as large as a network


class OnnxConverter:
    """Convert networks for one shape of input and make them ready to run in ONNX Runtime.

    Args:
        example: one batch, shape ``(N, *input_shape)``.

    Attributes:
        exported: how many networks were exported for themselves.
        refilled: how many took an earlier one's file with their own tensors.
    """

    def __init__(self, example: Tensor) -> None:
        generator = torch.Generator().manual_seed(0)
        self._example = example.detach().cpu()
        if example.is_floating_point():
            self._example = torch.randn(example.shape, generator=generator).to(example.dtype)
        self._files: dict[tuple[str, ...], Any] = {}
        self._fixed: set[tuple[str, ...]] = set()  # structures whose file holds numbers of channels
        self.exported = self.refilled = 0

    def session(self, network: nn.Module, threads: int = 1) -> OnnxSession:
        """Return a network ready to run, checked against PyTorch.

        Args:
            network: in eval mode; not touched.
            threads: CPU threads, at least 1.

        Raises:
            ExportError: if it cannot be converted, or answers otherwise than in PyTorch.
        """
        structure = tuple(network.state_dict())
        return self._refill(network, structure, threads) or self._export(network, structure, threads)

    def _refill(self, network: nn.Module, structure: tuple[str, ...], threads: int) -> OnnxSession | None:
        """Return the network in an earlier one's file, or ``None`` if there is none or it does not hold."""
        if structure not in self._files or structure in self._fixed:
            return None
        try:
            session = OnnxSession(_refilled(self._files[structure], network.state_dict()), threads)
            difference = self._difference(session, network)
        except Exception:  # a number in the file does not fit these tensors, which ONNX Runtime says in many ways
            difference = float("inf")
        if difference <= TOLERANCE:
            self.refilled += 1
            return session
        self._fixed.add(structure)
        return None

    def _export(self, network: nn.Module, structure: tuple[str, ...], threads: int) -> OnnxSession:
        import onnx

        file = onnx_bytes(network, self._example, optimize=False)
        session = OnnxSession(file, threads)
        difference = self._difference(session, network)
        if not difference <= TOLERANCE:
            raise ExportError(
                f"in ONNX Runtime the network answers otherwise than in PyTorch, by {difference:.2g} of the largest "
                f"answer; expected at most {TOLERANCE:g}. One that is random in eval mode would; time it with the "
                f"latency runtime torch"
            )
        self.exported += 1
        if structure not in self._files:
            while len(self._files) >= STRUCTURES:
                self._files.pop(next(iter(self._files)))
            self._files[structure] = onnx.load_model_from_string(file)
        return session

    def _difference(self, session: OnnxSession, network: nn.Module) -> float:
        """Return how far the answers are from PyTorch's, as a share of the largest one."""
        weight = next(network.parameters(), self._example)
        with torch.no_grad():
            expected = network(self._example.to(weight.device)).float().cpu()
        answers = session(self._example).float()
        if answers.shape != expected.shape:
            return float("inf")
        return float((answers - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def _refilled(file: Any, tensors: Mapping[str, Tensor]) -> bytes:
    """Return the bytes of a file in which every tensor that is named as one given is that one.

    Args:
        file: an ``onnx.ModelProto``; not changed.
        tensors: path → tensor.
    """
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(file)
    del model.graph.value_info[:]  # shapes of what lies between; ONNX Runtime finds the new ones
    for stored in model.graph.initializer:
        if stored.name in tensors:
            values = tensors[stored.name].detach().cpu().contiguous().numpy()
            stored.CopyFrom(onnx.numpy_helper.from_array(values, stored.name))
    return bytes(model.SerializeToString())
