"""Export a finished network to other formats, and check each file against PyTorch before it is called one.

A file is checked on validation examples where there are some: the largest difference of any output, how many answers
are equal, and both scores. Then it is timed in the package that runs it, in alternating blocks against the dense
network in the same format. A format that fails is named with its reason; the others are not harmed.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from autoprune.core.atomic_write import write_bytes
from autoprune.core.builtin_names import EXPORTS
from autoprune.core.export_formats import FILES, INT8, PLUG_INS, Wanted
from autoprune.core.json_values import parse_json
from autoprune.core.notify import Notify
from autoprune.cost.latency import Timer
from autoprune.cost.timing_engines import TORCH_ENGINES
from autoprune.cost.timing_plan import TimingPlan
from autoprune.errors import ExportError, UsageError
from autoprune.export.examples import Examples, ScoreAnswers
from autoprune.export.export_result import (
    Agreement,
    ExportedFile,
    ExportResult,
    FailedExport,
    TimingResult,
    read_export,
)
from autoprune.export.formats import Answer, ExportFormat
from autoprune.export.onnx import OnnxSession, onnx_bytes
from autoprune.export.onnx_check import checked_onnx
from autoprune.export.openvino import BIN, XML, OpenVinoSession, openvino_files
from autoprune.export.own_process import ForeignCodeError, in_own_process
from autoprune.export.torch_export import load_program, program_bytes
from autoprune.models.calling.answers import are_of_one_shape, difference, magnitude
from autoprune.models.calling.inputs import Inputs
from autoprune.models.calling.tensors import map_tensors, tensors_in

CHECKED_EXAMPLES = 2000
_BATCH = 64


@dataclass(frozen=True)
class Format:
    """How a format of a single file is made and run.

    Attributes:
        runtime: the package that runs them.
        convert: (network, example) → content of the file.
        open: (content, threads) → what answers.
        facts: content → what else a reader of the file wants to know; raises if the file is unsound.
    """

    runtime: str
    convert: Callable[[nn.Module, object], bytes]
    open: Callable[[bytes, int], Answer]
    facts: Callable[[bytes], dict[str, str | int]]

    def in_folder(self, file: str) -> ExportFormat:
        """Return the same as what writes and opens a file of this name in a folder."""

        def export(network: nn.Module, example: object, folder: Path) -> None:
            write_bytes(folder / file, self.convert(network, example))

        return ExportFormat(
            export,
            lambda folder, threads: self.open((folder / file).read_bytes(), threads),
            file,
            self.runtime,
            facts=lambda folder: self.facts((folder / file).read_bytes()),
        )


def _onnx_facts(content: bytes) -> dict[str, str | int]:
    found = checked_onnx(content)
    facts: dict[str, str | int] = {"opset": found.opset, "operators": found.operators}
    facts["checker"] = "onnx.checker found no fault"
    if not found.dynamic_batch:
        facts["shapes"] = "of one shape only, since their examples cannot be told apart"
    return facts


FORMATS = {
    "onnx": Format("onnxruntime", onnx_bytes, OnnxSession, _onnx_facts),
    "pt2": Format("torch", program_bytes, lambda content, threads: load_program(content), lambda content: {}),
}


def _write_openvino(network: nn.Module, example: object, folder: Path) -> None:
    for name, content in openvino_files(onnx_bytes(network, example)).items():
        write_bytes(folder / name, content)


def _open_openvino(folder: Path, threads: int) -> OpenVinoSession:
    return OpenVinoSession((folder / XML).read_bytes(), (folder / BIN).read_bytes(), threads)


OPENVINO = ExportFormat(_write_openvino, _open_openvino, XML, "openvino", (BIN,))


def format_of(name: str) -> ExportFormat:
    """Return a format by its name: one of our own, or a plug-in's.

    Raises:
        UnknownNameError: if there is none.
        UsageError: if a plug-in cannot be loaded, or is no :class:`ExportFormat`.
    """
    if name in FORMATS:
        return FORMATS[name].in_folder(FILES[name])
    if name == "openvino":
        return OPENVINO
    found = EXPORTS.get(name)
    if not isinstance(found, ExportFormat):
        raise UsageError(f"the export format {name!r} is {found!r}; expected an autoprune.export.formats.ExportFormat")
    return found


def place_of(folder: Path, name: str) -> Path:
    """Return where in a picked folder the files of a format lie: our own in itself, a plug-in's apart."""
    return folder if name in FILES else folder / PLUG_INS / name


def export_network(
    folder: Path,
    network: nn.Module,
    dense: nn.Module,
    examples: Examples,
    wanted: Wanted,
    plan: TimingPlan,
    notify: Notify,
) -> dict[str, ExportResult]:
    """Write a network in every format wanted but int8, as far as that works.

    Args:
        folder: where the files go.
        network: pruned, in eval mode, on the CPU, in float32; not touched.
        dense: the network before pruning, in the same state.
        examples: that the files are checked on.
        wanted: which formats.
        plan: how to time.
        notify: called with a sentence when something begins or fails.

    Returns:
        format → what came of it.
    """
    found: dict[str, ExportResult] = {}
    for name in (name for name in wanted.formats if name != INT8):  # which needs the data, and comes later
        shown = FILES.get(name, f"{PLUG_INS}/{name}")
        notify(f"exporting to {shown}, and checking it against PyTorch")
        try:
            export = _exported if name in FILES else _exported_apart
            found[name] = export(folder, name, network, dense, examples, plan)
        except Exception as error:  # an exporter may raise anything, and the network is there without it
            _remove(folder, name)
            failed = FailedExport.of(shown, error)
            notify(f"{failed.file} was not written: {failed.failure}")
            found[name] = failed
    return found


def _remove(folder: Path, name: str) -> None:
    """Remove what a format that failed may have written."""
    if name not in FILES:
        shutil.rmtree(place_of(folder, name), ignore_errors=True)
        return
    for file in format_of(name).files:
        (folder / file).unlink(missing_ok=True)


def _exported_apart(
    folder: Path, name: str, network: nn.Module, dense: nn.Module, examples: Examples, plan: TimingPlan
) -> ExportedFile:
    """Do what :func:`_exported` does in a process of its own, since a plug-in may crash natively.

    Raises:
        ExportError: with the plug-in's reason, or how its process ended.
    """

    def work() -> bytes:
        return json.dumps(_exported(folder, name, network, dense, examples, plan).to_json()).encode()

    try:
        found = read_export(parse_json(in_own_process(work, lambda error: f"{type(error).__name__}: {error}")))
    except ForeignCodeError as error:
        raise ExportError(f"the plug-in {name!r} failed: {error}") from error
    if not isinstance(found, ExportedFile):
        raise ExportError(f"the plug-in {name!r} gave {found}; please report this bug")
    return found


def _exported(
    folder: Path, name: str, network: nn.Module, dense: nn.Module, examples: Examples, plan: TimingPlan
) -> ExportedFile:
    """Write the files of one format and return what is known of them.

    Raises:
        ExportError: if they do not answer as PyTorch does.
        Exception: whatever the exporter raises.
    """
    form, example, place = format_of(name), examples.first(2), place_of(folder, name)
    place.mkdir(parents=True, exist_ok=True)
    form.export(network, example, place)
    _check_written(form, place)
    facts = form.facts(place)
    answer = form.open(place, plan.threads)
    agreement = compare(answer, network, examples)
    if not agreement.is_close:
        raise ExportError(
            f"its outputs on {agreement.examples} {examples.kind} differ from PyTorch's by up to "
            f"{agreement.max_difference:.3g}, the largest being {agreement.largest_output:.3g}; expected rounding only"
        )
    with tempfile.TemporaryDirectory() as other:
        form.export(dense, example, Path(other))
        dense_bytes = form.size(Path(other))
        timing = timed(form.open(Path(other), plan.threads), answer, examples.timed(plan.batch), plan)
    file, *beside = (str((place / each).relative_to(folder)) for each in form.files)
    return ExportedFile(file, form.runtime, dense_bytes, agreement, timing, dict(facts), beside=tuple(beside))


def _check_written(form: ExportFormat, place: Path) -> None:
    missing = [name for name in form.files if not (place / name).is_file()]
    if missing:
        raise ExportError(f"it did not write {', '.join(missing)} into the folder that it was given")


def compare(answer: Answer, reference: Answer, examples: Examples, limit: int = CHECKED_EXAMPLES) -> Agreement:
    """Return how far an answerer and a network agree, tensor by tensor.

    Args:
        answer: the one that is checked.
        reference: the network it is checked against.
        examples: at least one batch.
        limit: at most this many of them.
    """
    seen = _Seen()
    with torch.inference_mode():
        for inputs, wanted in examples.take(_BATCH, limit):
            output = inputs.run(reference)
            seen.add(tensors_in(inputs.run(answer)), output, inputs.size)
            if examples.names_classes and isinstance(output, Tensor) and output.dim() == 2:
                seen.add_classes()
            if examples.score is not None:
                seen.add_scores(examples.score, output, wanted)
    scores = [examples.reduce(torch.cat(values)) if values else None for values in seen.scores]
    equal = None if seen.same is None else seen.same / seen.examples
    ours, theirs = scores
    return Agreement(seen.examples, examples.kind, seen.worst, seen.largest, equal, ours, theirs, examples.quality.name)


class _Seen:
    """What was seen of two answerers so far: how far apart they were, how often equal, and how both scored."""

    def __init__(self) -> None:
        self.examples = 0
        self.same: int | None = None
        self.worst = self.largest = 0.0
        self.scores: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._found: list[Tensor] = []
        self._expected: list[Tensor] = []

    def add(self, found: list[Tensor], output: object, size: int | None) -> None:
        """Add the answers to a batch; NaN is no agreement, unless both answer it."""
        self._found, self._expected = found, tensors_in(output)
        apart = [float("inf")]
        if are_of_one_shape(self._found, self._expected):
            apart = [difference(one, other) for one, other in zip(self._found, self._expected, strict=True)]
        self.worst = max(self.worst, *(each if each == each else float("inf") for each in apart))
        self.largest = max(self.largest, *map(magnitude, self._expected))
        self.examples += size or 1

    def add_classes(self) -> None:
        """Count the examples to which both name the same class."""
        self.same = (self.same or 0) + int((self._found[0].argmax(1) == self._expected[0].argmax(1)).sum())

    def add_scores(self, score: ScoreAnswers, output: object, wanted: object) -> None:
        """Add what both answers are worth."""
        given = iter(self._found)
        for values, each in zip(self.scores, (map_tensors(output, lambda _: next(given)), output), strict=True):
            values.append(score(each, wanted).detach().cpu())


def timed(dense: Answer, pruned: Answer, example: Inputs, plan: TimingPlan) -> TimingResult:
    """Time two networks in alternating blocks of calls.

    Args:
        dense: the network before pruning, or what answers for it.
        pruned: the network after pruning, or what answers for it.
        example: a batch of inputs, where the networks are.
        plan: how to time.
    """
    # they are callables that are ready already, which is all that the eager engine asks of a network
    timer = Timer(cast(nn.Module, dense), example, plan, TORCH_ENGINES["torch"])
    found = timer.compare(cast(nn.Module, pruned))
    return TimingResult(
        batch=plan.batch if example.is_plain else example.size,
        threads=plan.threads,
        ratio=found.ratio,
        ratio_stderr=found.ratio_stderr,
        pruned_ms=found.pruned_ms,
        dense_ms=found.dense_ms,
    )
