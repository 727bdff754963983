"""A finished network in int8: ``model.int8.onnx``, written only beside what was measured of it.

Static quantisation by ONNX Runtime, calibrated on training examples. Int8 is often no faster and sometimes much worse,
so nothing is taken for granted: the score on validation is paired with that in float32, and latency is timed in
alternation with the same network in float32, with the dense network, and with the dense network in int8. A network that
loses too much keeps some layers in float32 (``int8_layers.py``). What fails is named; the other files are not harmed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from autoprune.core.atomic_write import write_bytes
from autoprune.core.export_formats import FILES, INT8, Int8Limit
from autoprune.core.notify import Notify
from autoprune.cost.timing_plan import TimingPlan
from autoprune.errors import ExportError
from autoprune.export.convert import FORMATS, compare, timed
from autoprune.export.cpu_flags import reduces_range
from autoprune.export.examples import Examples
from autoprune.export.export_result import (
    ExportedFile,
    ExportResult,
    FailedExport,
    Int8Facts,
    Int8Training,
    TimingResult,
)
from autoprune.export.int8_calibration import CalibratedModel, Feed, calibrated
from autoprune.export.int8_layers import Int8Network, good_enough
from autoprune.export.int8_quantise import quantised
from autoprune.export.int8_score import SCORED_EXAMPLES, FloatScore, Int8Score, allowed_drop
from autoprune.export.int8_trained import Int8Trained, chosen_model
from autoprune.export.onnx import OnnxSession

CALIBRATION_EXAMPLES = 320
_CALIBRATION_BATCH = 32
_FLOAT = FORMATS["onnx"]


def export_int8(
    folder: Path,
    network: nn.Module,
    dense: nn.Module,
    examples: Examples,
    limit: Int8Limit,
    plan: TimingPlan,
    notify: Notify,
    trained: Int8Trained | None = None,
) -> ExportResult:
    """Write a network in int8, if it can be made and is good enough; and return what came of it.

    Args:
        folder: where the file goes; ``model.onnx`` is taken from there if it lies there.
        network: pruned, in eval mode, on the CPU, in float32; not touched.
        dense: the network before pruning, in the same state.
        examples: of validation, and for calibration of training.
        limit: how much may be lost.
        plan: how to time.
        notify: called with a sentence when something begins or fails.
        trained: the network after it was trained further with the rounding of int8, on the CPU, which is taken if it
            is better beyond noise; ``None`` if it was not.
    """
    file = FILES[INT8]
    notify(f"quantising to {file}, calibrated on training examples")
    try:
        return _exported(folder / file, network, dense, examples, limit, plan, notify, trained)
    except Exception as error:  # an exporter may raise anything, and the network is there without it
        (folder / file).unlink(missing_ok=True)
        failed = FailedExport.of(file, error)
        notify(f"{failed.file} was not written: {failed.failure}")
        return failed


@dataclass(frozen=True)
class _FloatFiles:
    """The two networks as ONNX files in float32, and what they are calibrated on."""

    pruned: bytes
    dense: bytes
    feeds: Sequence[Feed]
    count: int


def _exported(
    path: Path,
    network: nn.Module,
    dense: nn.Module,
    examples: Examples,
    limit: Int8Limit,
    plan: TimingPlan,
    notify: Notify,
    trained: Int8Trained | None,
) -> ExportedFile:
    """Write the file and return what is known of it.

    Raises:
        ExportError: if it loses too much, or what it costs cannot be measured.
        Exception: whatever the exporter raises.
    """
    reduce_range, reference = reduces_range(), FloatScore.of(network, examples)
    files = _float_files(path.with_name(FILES["onnx"]), network, dense, examples)
    model, training = calibrated(files.pruned, files.feeds), None
    if trained is not None:
        model, training = _chosen(model, trained, files, reference, reduce_range, plan.threads)
        notify(_in_words(training))
    made = good_enough(
        model,
        reference,
        limit,
        reduce_range=reduce_range,
        feed=files.feeds[0],
        threads=plan.threads,
        notify=notify,
    )
    write_bytes(path, made.content)
    answer = OnnxSession(path.read_bytes(), plan.threads)
    times = _Times(answer, partial(OnnxSession, threads=plan.threads), examples, plan)
    agreement = compare(answer, network, examples, SCORED_EXAMPLES)
    latency = times.against(files.dense)
    int8 = _facts(made, model, reference, limit, files, reduce_range, times, training)
    return ExportedFile(
        path.name, _FLOAT.runtime, len(files.dense), agreement, latency, _FLOAT.facts(made.content), int8
    )


def _chosen(
    static: CalibratedModel,
    trained: Int8Trained,
    files: _FloatFiles,
    reference: FloatScore,
    reduce_range: bool,
    threads: int,
) -> tuple[CalibratedModel, Int8Training]:
    """Return the better of the finished network and the one that was trained with rounding, ready to be quantised."""
    example = reference.examples.first(2)

    def judge(model: CalibratedModel) -> Int8Score:
        return reference.judged(OnnxSession(quantised(model, reduce_range, (), files.feeds[0]), threads))

    return chosen_model(
        static,
        trained,
        lambda network: calibrated(_FLOAT.convert(network, example), files.feeds),
        judge,
        lambda difference: reference.examples.quality.gain(difference, 0.0),
    )


def _in_words(training: Int8Training) -> str:
    """Return which network becomes int8."""
    if training.failure:
        return f"training with the rounding of int8 failed, and the finished network becomes int8: {training.failure}"
    which = "is better in int8 beyond noise, and becomes" if training.is_kept else "is no better, and does not become"
    return f"the network that was trained with the rounding of int8 {which} int8"


def _float_files(known: Path, network: nn.Module, dense: nn.Module, examples: Examples) -> _FloatFiles:
    """Return both networks in float32 and the batches to calibrate them on.

    Raises:
        ExportError: if there are no training examples.
    """
    example = examples.first(2)
    pruned = known.read_bytes() if known.exists() else _FLOAT.convert(network, example)
    feeds, count = _feeds(pruned, examples)
    return _FloatFiles(pruned, _FLOAT.convert(dense, example), feeds, count)


def _feeds(content: bytes, examples: Examples) -> tuple[list[Feed], int]:
    """Return batches of training examples as a file takes them, and how many examples there are in all.

    Raises:
        ExportError: if there are none.
    """
    if examples.calibration is None:
        raise ExportError("int8 is calibrated on training examples, and there are none; give the data with --data")
    inputs = list(examples.calibration(_CALIBRATION_BATCH, CALIBRATION_EXAMPLES))
    if not inputs:
        raise ExportError("int8 is calibrated on training examples, and the data gave none; check its train split")
    session = OnnxSession(content)
    return [one.run(session.feed) for one in inputs], sum(one.size or 1 for one in inputs)


def int8_score(content: bytes, network: nn.Module, examples: Examples, threads: int) -> tuple[Int8Score, FloatScore]:
    """Return what a network is worth on validation in int8, with every layer of it, and in float32.

    Args:
        content: of its ONNX file in float32.
        network: in eval mode, on the CPU; not touched.
        examples: of validation, and for calibration of training.
        threads: CPU threads, at least 1.

    Raises:
        ExportError: if it cannot be quantised or scored.
    """
    reference = FloatScore.of(network, examples)
    feeds, _ = _feeds(content, examples)
    made = quantised(calibrated(content, feeds), reduces_range(), (), feeds[0])
    return reference.judged(OnnxSession(made, threads)), reference


@dataclass(frozen=True)
class _Times:
    """What times a file in int8 against others."""

    answer: OnnxSession
    open: Callable[[bytes], OnnxSession]
    examples: Examples
    plan: TimingPlan

    def against(self, other: bytes) -> TimingResult:
        """Time it in alternation with another file."""
        return timed(self.open(other), self.answer, self.examples.timed(self.plan.batch), self.plan)


def _facts(
    made: Int8Network,
    model: CalibratedModel,
    reference: FloatScore,
    limit: Int8Limit,
    files: _FloatFiles,
    reduce_range: bool,
    times: _Times,
    training: Int8Training | None,
) -> Int8Facts:
    """Return what the file costs and brings, timing it."""
    quality, failure = reference.examples.quality, ""
    against_dense: TimingResult | None = None
    try:
        against_dense = times.against(_dense_int8(files, reduce_range))
    except ExportError as error:
        failure = str(error)
    return Int8Facts(
        metric=quality.name,
        score=made.score.value,
        float_score=reference.value,
        gain=made.score.gain,
        gain_stderr=made.score.stderr,
        examples=made.score.count,
        allowed_drop=allowed_drop(reference.value, quality, limit),
        layers=len(model.layers),
        in_float=tuple(layer.name for layer in made.in_float),
        calibration_examples=files.count,
        reduce_range=reduce_range,
        float_bytes=len(files.pruned),
        against_float=times.against(files.pruned),
        against_dense_int8=against_dense,
        dense_failure=failure,
        training=training,
    )


def _dense_int8(files: _FloatFiles, reduce_range: bool) -> bytes:
    """Return the dense network in int8, every layer of it, to time against.

    One batch is enough: its ranges decide what it answers, not how long it takes.

    Raises:
        ExportError: if it cannot be quantised.
    """
    few = files.feeds[:1]
    return quantised(calibrated(files.dense, few), reduce_range, (), few[0])
