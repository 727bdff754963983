"""Export a finished network to other formats, and check each file against PyTorch before it is called one.

A file is checked on validation images where there are some: the largest difference of any output, how many answers are
equal, and both accuracies. Then it is timed in the package that runs it, in alternating blocks against the dense
network in the same format. A format that fails is named with its reason; the others are not harmed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from autoprune.export.export_result import Agreement, ExportedFile, ExportResult, FailedExport, TimingResult
from autoprune.export.onnx import OnnxSession, onnx_bytes
from autoprune.export.onnx_check import checked_onnx
from autoprune.export.torch_export import load_program, program_bytes
from autoprune.tasks.task import Batch, DataTask, PlainPlacement

Answer: TypeAlias = Callable[[Tensor], Tensor]
"""(examples of shape ``(N, *input_shape)``) → logits ``(N, classes)``."""

CHECKED_IMAGES = 2000
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
    convert: Callable[[nn.Module, Tensor], bytes]
    open: Callable[[bytes, int], Answer]
    facts: Callable[[bytes], dict[str, str | int]]


def _onnx_facts(content: bytes) -> dict[str, str | int]:
    found = checked_onnx(content)
    return {"opset": found.opset, "operators": found.operators, "checker": "onnx.checker found no fault"}


@dataclass(frozen=True)
class Examples:
    """The inputs that files are checked on.

    Attributes:
        kind: what they are, in words.
        shape: of one.
        take: (examples in a batch, at most how many) → batches, always the same.
        has_labels: whether their labels mean anything.
    """

    kind: str
    shape: tuple[int, ...]
    take: Callable[[int, int], Iterator[Batch]]
    has_labels: bool


def examples_of(task: DataTask) -> Examples:
    """Return the validation images of a task."""
    return Examples(
        "validation images",
        tuple(task.input_shape),
        lambda size, limit: task.eval_batches("val", size, PlainPlacement(), limit),
        has_labels=True,
    )


def random_examples(shape: tuple[int, ...], seed: int) -> Examples:
    """Return 64 inputs of normal noise, for a network that comes without data."""

    def take(size: int, limit: int) -> Iterator[Batch]:
        inputs = torch.randn(64, *shape, generator=torch.Generator().manual_seed(seed))[:limit]
        for start in range(0, len(inputs), size):
            part = inputs[start : start + size]
            yield Batch(part, torch.zeros(len(part), dtype=torch.int64))

    return Examples("random inputs", shape, take, has_labels=False)


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
    """Write a network in every format wanted, as far as that works.

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
    for name in wanted.formats:
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
    example = next(examples.take(2, 2)).images
    content = form.convert(network, example)
    facts = form.facts(content)
    write_bytes(path, content)
    answer = form.open(path.read_bytes(), plan.threads)
    agreement = compare(answer, network, examples)
    if not agreement.is_close:
        raise ExportError(
            f"its outputs on {agreement.images} {examples.kind} differ from PyTorch's by up to "
            f"{agreement.max_difference:.3g}, the largest being {agreement.largest_output:.3g}; expected rounding only"
        )
    dense_content = form.convert(dense, example)
    batch = torch.zeros(plan.batch, *examples.shape)
    timing = timed(form.open(dense_content, plan.threads), answer, batch, plan)
    return ExportedFile(path.name, form.runtime, len(dense_content), agreement, timing, facts)


def compare(answer: Answer, reference: Answer, examples: Examples) -> Agreement:
    """Return how far two networks agree.

    Args:
        answer: the one that is checked.
        reference: the one it is checked against.
        examples: at least one.
    """
    differences, largest, same, right, reference_right = [], [], 0, 0, 0
    images = 0
    with torch.inference_mode():
        for batch in examples.take(_BATCH, CHECKED_IMAGES):
            found, expected = answer(batch.images), reference(batch.images)
            differences.append(float((found - expected).abs().max()))
            largest.append(float(expected.abs().max()))
            classes, wanted = found.argmax(1), expected.argmax(1)
            same += int((classes == wanted).sum())
            right += int((classes == batch.labels).sum())
            reference_right += int((wanted == batch.labels).sum())
            images += len(batch)
    worst = max(differences) if all(value == value for value in differences) else float("inf")  # NaN is no agreement
    accuracies = (right / images, reference_right / images) if examples.has_labels else (None, None)
    return Agreement(images, examples.kind, worst, max(largest), same / images, *accuracies)


def timed(dense: Answer, pruned: Answer, example: Tensor, plan: TimingPlan) -> TimingResult:
    """Time two networks in alternating blocks of calls.

    Args:
        dense: the network before pruning.
        pruned: the network after pruning.
        example: a batch of inputs, where the networks are.
        plan: how to time.
    """
    # they are callables that are ready already, which is all that the eager engine asks of a network
    timer = Timer(cast(nn.Module, dense), example, plan, TORCH_ENGINES["torch"])
    found = timer.compare(cast(nn.Module, pruned))
    return TimingResult(
        batch=plan.batch,
        threads=plan.threads,
        ratio=found.ratio,
        ratio_stderr=found.ratio_stderr,
        pruned_ms=found.pruned_ms,
        dense_ms=found.dense_ms,
    )
