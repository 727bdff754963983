"""Export a finished network to other formats, and check each file against PyTorch before it is called one.

A file is checked on validation examples where there are some: the largest difference of any output, how many answers
are equal, and both scores. Then it is timed in the package that runs it, in alternating blocks against the dense
network in the same format. A format that fails is named with its reason; the others are not harmed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

from autoprune.core.atomic_write import write_bytes
from autoprune.core.export_formats import FILES, Wanted
from autoprune.core.notify import Notify
from autoprune.cost.latency import Timer
from autoprune.cost.timing_engines import TORCH_ENGINES
from autoprune.cost.timing_plan import TimingPlan
from autoprune.errors import ExportError
from autoprune.export.examples import Examples, ScoreAnswers
from autoprune.export.export_result import Agreement, ExportedFile, ExportResult, FailedExport, TimingResult
from autoprune.export.onnx import OnnxSession, onnx_bytes
from autoprune.export.onnx_check import checked_onnx
from autoprune.export.torch_export import load_program, program_bytes
from autoprune.models.calling.answers import are_of_one_shape, difference, magnitude
from autoprune.models.calling.inputs import Inputs
from autoprune.models.calling.tensors import map_tensors, tensors_in

Answer: TypeAlias = Callable[..., object]
"""Is called as the network is; the tensors of its answer come in the order of the network's."""

CHECKED_EXAMPLES = 2000
_BATCH = 64


@dataclass(frozen=True)
class Format:
    """How files of one format are made and run.

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
    for name in (name for name in wanted.formats if name in FORMATS):
        notify(f"exporting to {FILES[name]}, and checking it against PyTorch")
        try:
            found[name] = _exported(folder / FILES[name], FORMATS[name], network, dense, examples, plan)
        except Exception as error:  # an exporter may raise anything, and the network is there without it
            (folder / FILES[name]).unlink(missing_ok=True)
            reason = str(error) if isinstance(error, ExportError) else f"{type(error).__name__}: {error}"
            failed = FailedExport(FILES[name], " ".join(reason.split()))
            notify(f"{failed.file} was not written: {failed.failure}")
            found[name] = failed
    return found


def _exported(
    path: Path, form: Format, network: nn.Module, dense: nn.Module, examples: Examples, plan: TimingPlan
) -> ExportedFile:
    """Write one file and return what is known of it.

    Raises:
        ExportError: if it does not answer as PyTorch does.
        Exception: whatever the exporter raises.
    """
    example = examples.first(2)
    content = form.convert(network, example)
    facts = form.facts(content)
    write_bytes(path, content)
    answer = form.open(path.read_bytes(), plan.threads)
    agreement = compare(answer, network, examples)
    if not agreement.is_close:
        raise ExportError(
            f"its outputs on {agreement.examples} {examples.kind} differ from PyTorch's by up to "
            f"{agreement.max_difference:.3g}, the largest being {agreement.largest_output:.3g}; expected rounding only"
        )
    dense_content = form.convert(dense, example)
    timing = timed(form.open(dense_content, plan.threads), answer, examples.timed(plan.batch), plan)
    return ExportedFile(path.name, form.runtime, len(dense_content), agreement, timing, facts)


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
