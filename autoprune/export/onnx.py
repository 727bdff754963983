"""Converting a network to ONNX, and running such a file in ONNX Runtime on the CPU.

The packages ``onnx``, ``onnxscript`` and ``onnxruntime`` are loaded late. The conversion is PyTorch's own
exporter, in a process of its own because it may crash; that both answer alike is for the caller to check, on inputs
that matter.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.export_formats import get_onnx
from autoprune.errors import ExportError
from autoprune.export.flat_network import FlatNetwork, Flattened, flattened, of_two
from autoprune.export.onnx_names import name_ends, temporary_names
from autoprune.export.own_process import ForeignCodeError, in_own_process
from autoprune.models.calling.inputs import Inputs
from autoprune.models.calling.tensors import tensors_in
from autoprune.models.copying.copy_network import copy_network

CONVERTER = ("onnx", "onnxscript")
RUNTIME = ("onnxruntime",)
BATCH = "batch"
_LOGGERS = ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")
_LONGEST_REASON = 300


def missing_packages(wanted: tuple[str, ...] = (*CONVERTER, *RUNTIME)) -> tuple[str, ...]:
    """Return which of the packages that ONNX needs are not installed; nothing is imported."""
    return tuple(name for name in wanted if find_spec(name) is None)


def onnx_bytes(network: nn.Module, example: object) -> bytes:
    """Return a network as the bytes of an ONNX file, for any number of examples at once where they can be told apart.

    It is converted in float32 on the CPU, in eval mode, from a copy. Nothing is printed. Every tensor of its inputs and
    outputs has a name of its own: ``input`` and ``output`` where there is but one, or else what ``forward`` calls its
    arguments, and the keys of dictionaries.

    Args:
        network: of any inputs and outputs; not touched.
        example: one batch, as :meth:`Inputs.of` takes it; of one tensor of real numbers only shape and type matter.

    Raises:
        ExportError: if packages are missing, or with the exporter's own reason if the network cannot be converted.
    """
    return as_bytes(onnx_model(network, example))


def onnx_model(network: nn.Module, example: object, *, optimize: bool = True) -> Any:
    """Return a network as an ``onnx.ModelProto``, with the exporter's notes on every node.

    Args:
        network: as for :func:`onnx_bytes`.
        example: as for :func:`onnx_bytes`.
        optimize: whether constants are folded and operators fused; ONNX Runtime does so itself too. Without, every
            tensor has the name that it has in the network.

    Raises:
        ExportError: as :func:`onnx_bytes` does.
    """
    _need(CONVERTER)
    import onnx
    import onnxscript  # noqa: F401  # here, so that children need not load it anew

    twin: nn.Module = copy_network(network).cpu().eval()
    twin.to(memory_format=torch.contiguous_format)
    flat = flattened(twin, of_two(Inputs.of(example), twin))
    try:
        content = in_own_process(lambda: _converted(flat, optimize), _described)
    except ForeignCodeError as error:
        raise ExportError(
            f"the network cannot be converted to ONNX: {error}; its other files and the latency runtime torch do "
            f"without"
        ) from error
    model = onnx.load_from_string(content)
    if isinstance(flat.network, FlatNetwork):
        name_ends(model, flat.inputs, flat.outputs)
    if flat.is_dynamic:
        check_ends(model)
    return model


def _converted(flat: Flattened, optimize: bool) -> bytes:
    """Return what the exporter makes of a network, with its notes; may raise anything, or crash."""
    is_alone = not isinstance(flat.network, FlatNetwork)
    with _quiet(), torch.inference_mode(False), torch.no_grad():
        program = torch.onnx.export(
            flat.network,
            flat.tensors,
            dynamo=True,
            verbose=False,
            optimize=optimize,
            input_names=flat.inputs if is_alone else temporary_names("input", len(flat.inputs)),
            output_names=flat.outputs if is_alone else temporary_names("output", len(flat.outputs)),
            dynamic_shapes=_dynamic_shapes(flat),
        )
        return bytes(program.model_proto.SerializeToString())  # type: ignore[union-attr]


def _dynamic_shapes(flat: Flattened) -> tuple[Any, ...] | None:
    """Return that the first dimension of every input is the number of examples, ``None`` where it is not."""
    if not flat.is_dynamic:
        return None
    dimensions = tuple({0: BATCH} for _ in flat.tensors)
    return (dimensions,) if isinstance(flat.network, FlatNetwork) else dimensions  # of one argument, *tensors


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {_reason(error)}"


def optimized(model: Any) -> Any:
    """Return a model with constants folded and operators fused, by the optimizer that the exporter uses.

    Args:
        model: an ``onnx.ModelProto``.

    Raises:
        ExportError: if the optimizer does not take it.
    """
    from onnxscript import optimizer

    try:
        with _quiet():
            return optimizer.optimize(model)
    except Exception as error:  # of many kinds
        raise ExportError(
            f"the network's ONNX file cannot be optimized: {type(error).__name__}: {_reason(error)}; the latency "
            f"runtime torch does without"
        ) from error


def check_ends(model: Any) -> None:
    """Raise unless a model takes any number of examples.

    Raises:
        ExportError: saying how many it takes.
    """
    for given in model.graph.input:
        first = given.type.tensor_type.shape.dim[0]
        if not first.dim_param:
            raise ExportError(
                f"the network converts to ONNX for {first.dim_value} examples at once only, because its code takes "
                f"their number for a constant; write it with x.shape[0] or -1 instead, or use the latency runtime torch"
            )


def as_bytes(model: Any) -> bytes:
    """Return a model's bytes, without the exporter's notes, which hold paths of this machine; they are taken out of it.

    Raises:
        ExportError: if it is larger than the two gigabytes that a file can have.
    """
    for part in (model.graph, *model.functions):
        for noted in (*part.node, *part.value_info):
            del noted.metadata_props[:]
    try:
        return bytes(model.SerializeToString())
    except Exception as error:  # protobuf's own
        raise ExportError(f"the network does not fit into an ONNX file: {_reason(error)}") from error


class OnnxSession:
    """An ONNX file that runs on the CPU: operators one after another, each on some threads.

    Args:
        model: the bytes of a file, such as :func:`onnx_bytes` returns.
        threads: CPU threads within an operator, at least 1. They do not wait busily between calls.

    Attributes:
        content: the bytes of the file.

    Raises:
        ExportError: if onnxruntime is missing, or does not take the file.
    """

    def __init__(self, model: bytes, threads: int = 1) -> None:
        _need(RUNTIME)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 4  # not errors, which are raised
        options.add_session_config_entry("session.force_spinning_stop", "1")  # or it would slow down what runs next
        try:
            self._session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own, which have no common parent
            raise ExportError(f"ONNX Runtime does not take the file: {_reason(error)}; export it again") from error
        self._inputs = [one.name for one in self._session.get_inputs()]

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor, ...]:
        """Return the answers to a batch, on the CPU: a tensor, or several in the order of the file.

        Args:
            args: a batch as the exported network took it.
            kwargs: what it took by name.

        Raises:
            ExportError: if ONNX Runtime cannot run the file on them.
        """
        batch = self.feed(*args, **kwargs)
        try:
            answers = self._session.run(None, batch)
        except Exception as error:  # onnxruntime's own, which have no common parent
            shapes = ", ".join(str(array.shape) for array in batch.values())
            raise ExportError(
                f"ONNX Runtime cannot run the file on inputs of shape {shapes}: {_reason(error)}; give what the "
                f"exported network takes"
            ) from error
        found = tuple(map(torch.as_tensor, answers))  # not from_numpy, which takes no single number
        return found[0] if len(found) == 1 else found

    def feed(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return a batch as the file takes it: input name → NumPy array.

        Args: as for a call.

        Raises:
            ExportError: if it holds another number of tensors than the file takes.
        """
        return named_batch(self._inputs, args, kwargs)


def named_batch(inputs: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a batch by the names of a file's inputs: name → NumPy array.

    Args:
        inputs: their names, in order.
        args: what the exported network took.
        kwargs: what it took by name.

    Raises:
        ExportError: if it holds another number of tensors than there are inputs.
    """
    named = {name: value for name, value in kwargs.items() if name in inputs and isinstance(value, Tensor)}
    unnamed = tensors_in(args, {name: value for name, value in kwargs.items() if name not in named})
    tensors = [*unnamed, *named.values()]
    if len(tensors) != len(inputs):
        raise ExportError(
            f"the file takes {len(inputs)} tensors ({', '.join(inputs)}), and {len(tensors)} were given; give what the "
            f"exported network takes"
        )
    names = [*(name for name in inputs if name not in named), *named]
    batch = [tensor.detach().cpu().contiguous().numpy() for tensor in tensors]
    return dict(zip(names, batch, strict=True))


def _need(packages: tuple[str, ...]) -> None:
    missing = missing_packages(packages)
    if missing:
        raise ExportError(f"ONNX needs {' and '.join(missing)}, not installed here; {get_onnx(missing)}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the exporter's warnings and log lines; its errors are raised."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """Return the beginning of what began it all."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (" ".join(lines[:3]) or type(error).__name__)[:_LONGEST_REASON].rstrip(".")
