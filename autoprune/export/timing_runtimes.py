"""Which engine runs networks while they are timed: the link between the packages that time and that export."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from autoprune.core.export_formats import GET_OPENVINO, get_onnx
from autoprune.cost.timing_engines import TORCH_ENGINES, Engine, ForwardCall
from autoprune.cost.timing_plan import TimingPlan
from autoprune.errors import AutopruneError, ExportError, UsageError
from autoprune.export.int8_timing import int8_stand_in
from autoprune.export.onnx import OnnxSession, missing_packages
from autoprune.export.onnx_derivation import TOLERANCE, OnnxConverter
from autoprune.export.openvino import OpenVinoSession, is_missing
from autoprune.models.calling.inputs import Inputs

ONNX, OPENVINO = "onnxruntime", "openvino"
WORDS = {
    "torch": "PyTorch as it is",
    "compile": "torch.compile",
    ONNX: "ONNX Runtime",
    OPENVINO: "OpenVINO",
    "cuda": "PyTorch by the GPU's own clock",
}


def engine_of(name: str, kept: Path | None = None) -> Engine:
    """Return the engine of a latency runtime in float32, by a name that is not ``auto``.

    Args:
        name: of the runtime.
        kept: where the ONNX file that others are derived from is kept; ``None``: it is exported in every process.
    """
    makers = {ONNX: _onnx_engine, OPENVINO: _openvino_engine}
    return makers[name](kept) if name in makers else TORCH_ENGINES[name]


def int8_engine(engine: Engine) -> Engine:
    """Return an engine that times in int8 what another one runs in float32.

    Networks are derived in float32 and checked there, as ever, and then quantised to be timed.

    Args:
        engine: ONNX Runtime's.

    Raises:
        UsageError: if it is another one's, which has no files to quantise.
    """
    file_of = engine.file
    if file_of is None:
        raise UsageError(
            f"latency.format is int8, and latency.runtime {engine.name}; only onnxruntime times int8, so ask for that, "
            f"or for fp32"
        )

    def prepare(network: nn.Module, example: object, threads: int) -> ForwardCall:
        content = int8_stand_in(file_of(network, example, threads))
        batch = Inputs.of(example).on("cpu").map(Tensor.contiguous)
        return partial(OnnxSession(content, threads), *batch.args, **batch.kwargs)

    return Engine(engine.name, prepare, format="int8")


def check_engine(plan: TimingPlan, device: str) -> None:
    """Refuse a latency runtime that this machine or device does not have, before any work.

    Args:
        plan: how to time.
        device: ``cpu``, ``cuda`` or ``mps``: where networks are trained.

    Raises:
        UsageError: naming what is missing.
    """
    missing = missing_packages()
    if plan.runtime in (ONNX, OPENVINO) and missing:
        raise UsageError(
            f"latency.runtime is {plan.runtime}, and this is not installed: {', '.join(missing)}; "
            f"{get_onnx(missing)}, or ask for torch"
        )
    if plan.format == "int8" and plan.runtime not in (ONNX, "auto"):
        raise UsageError(
            f"latency.format is int8, and latency.runtime {plan.runtime}; only onnxruntime times int8, so ask for "
            f"that, or for fp32"
        )
    if plan.runtime == OPENVINO and is_missing():
        raise UsageError(f"latency.runtime is openvino, which is not installed; {GET_OPENVINO}, or ask for auto")
    if plan.runtime == "cuda" and device != "cuda":
        raise UsageError(f"latency.runtime is cuda, and the device is {device}; ask for auto, or another device")


def check_takes(engine: Engine, network: nn.Module, example: object) -> None:
    """Refuse a latency runtime that does not take a network, before the network is trained.

    Args:
        engine: of the latency runtime that was asked for.
        network: any weights, in eval mode.
        example: one batch on its device, as :meth:`Inputs.of` takes it.

    Raises:
        ExportError: if it cannot be exported to that runtime.
        ModelError: if it cannot be compiled.
    """
    with torch.inference_mode():
        engine.prepare(network, example, 1)


def decide_engine(
    plan: TimingPlan, device: str, dense: nn.Module, pruned: nn.Module, example: object, kept: Path | None = None
) -> tuple[str, Engine, str]:
    """Return the latency runtime that ``auto`` stands for here, its engine, and the reason in a sentence.

    ONNX Runtime is taken only if pruned networks need no export of their own, which takes seconds for each.

    Args:
        plan: how to time.
        device: ``cpu``, ``cuda`` or ``mps``.
        dense: the dense network, in eval mode, placed on the device.
        pruned: one like those that will be timed, in the same state.
        example: one batch for them, as :meth:`Inputs.of` takes it.
        kept: as for :func:`engine_of`.
    """
    if device != "cpu":
        name = "cuda" if device == "cuda" else "torch"
        return name, engine_of(name), _sentence(name, f"the device is {device}")
    missing = missing_packages()
    if missing:
        return "torch", engine_of("torch"), _sentence("torch", f"not installed: {', '.join(missing)}")
    converter = OnnxConverter(example, kept)
    try:
        for network in (dense, pruned):
            converter.session(network, plan.threads)
    except AutopruneError as error:
        return "torch", engine_of("torch"), _sentence("torch", str(error))
    if converter.exported > 1:
        reason = "for ONNX Runtime each pruned network would have to be exported anew, which takes seconds"
        return "torch", engine_of("torch"), _sentence("torch", reason)
    return ONNX, _onnx_engine(kept, converter), _sentence(ONNX, "it is installed and takes the network")


def _sentence(name: str, reason: str) -> str:
    return f"latency is timed in {WORDS[name]} (latency.runtime is {name}): {reason}"


def _onnx_engine(kept: Path | None, converter: OnnxConverter | None = None) -> Engine:
    """Return ONNX Runtime for networks that come from one, exported at most once, and inputs of one shape."""
    converters = [converter] if converter is not None else []

    def prepare(network: nn.Module, example: object, threads: int) -> ForwardCall:
        if not converters:
            converters.append(OnnxConverter(example, kept))
        batch = Inputs.of(example).on("cpu").map(Tensor.contiguous)
        return partial(converters[0].session(network, threads), *batch.args, **batch.kwargs)

    def file(network: nn.Module, example: object, threads: int) -> bytes:
        if not converters:
            converters.append(OnnxConverter(example, kept))
        return converters[0].file(network, threads)[0]

    return Engine(ONNX, prepare, file=file)


def _openvino_engine(kept: Path | None) -> Engine:
    """Return OpenVINO for networks that come from one, each by its ONNX file, and inputs of one shape."""
    converters: list[OnnxConverter] = []

    def prepare(network: nn.Module, example: object, threads: int) -> ForwardCall:
        if not converters:
            converters.append(OnnxConverter(example, kept))
        session = OpenVinoSession(converters[0].file(network, threads)[0], threads=threads)
        difference = converters[0].difference(session, network)
        if not difference <= TOLERANCE:
            raise ExportError(
                f"in OpenVINO the network answers otherwise than in PyTorch, by {difference:.2g} of the largest "
                f"answer; expected at most {TOLERANCE:g}; time it with the latency runtime torch or onnxruntime"
            )
        batch = Inputs.of(example).on("cpu").map(Tensor.contiguous)
        return partial(session, *batch.args, **batch.kwargs)

    return Engine(OPENVINO, prepare)
