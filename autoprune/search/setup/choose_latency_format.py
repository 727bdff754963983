"""In which numbers networks are timed: float32, int8, or what ``auto`` finds on this machine for the dense network."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from autoprune.core.measurement import CONFIDENT
from autoprune.cost.latency import cpu_threads
from autoprune.cost.timing_engines import Engine, FileOf
from autoprune.errors import AutopruneError
from autoprune.export.convert import timed
from autoprune.export.examples import examples_of
from autoprune.export.export_result import TimingResult
from autoprune.export.int8 import int8_score
from autoprune.export.int8_score import FloatScore, Int8Score
from autoprune.export.timing_runtimes import int8_engine
from autoprune.models.calling.inputs import Inputs
from autoprune.models.copying.copy_network import copy_network
from autoprune.search.setup.build_costs import timing_batch
from autoprune.search.setup.context import StudyContext
from autoprune.search.setup.from_spec import timing_plan
from autoprune.study.dense_facts import read_dense_facts


def with_latency_format(context: StudyContext, network: nn.Module, engine: Engine) -> tuple[StudyContext, Engine]:
    """Return the context with the latency format decided, and what runs networks in it.

    What the dense network was timed in already stays.

    Args:
        context: with the latency runtime decided.
        network: the dense network, in eval mode and placed.
        engine: of the latency runtime, in float32.

    Raises:
        UsageError: if int8 was asked for, and the runtime does not run it.
    """
    form = context.spec.latency.format
    if form == "auto" and context.folder.dense_facts.exists():
        form = "int8" if read_dense_facts(context.folder).latency_format == "int8" else "fp32"
    if form == "auto" and context.spec.latency.command:
        form = "fp32"  # of what is sent to another machine
    if form == "auto":
        is_int8, why = _decide(context, network, engine)
        form = "int8" if is_int8 else "fp32"
        context.notify(f"latency is timed in {'int8' if is_int8 else 'float32'} (latency.format is {form}): {why}")
    latency = context.spec.latency.model_copy(update={"format": form})
    decided = replace(context, spec=context.spec.model_copy(update={"latency": latency}))
    return decided, int8_engine(engine) if form == "int8" else engine


def _decide(context: StudyContext, network: nn.Module, engine: Engine) -> tuple[bool, str]:
    """Return whether int8 is faster for the dense network and no worse beyond noise, and the reason in a clause."""
    if engine.file is None:
        return False, f"latency.runtime is {engine.name}, and only onnxruntime runs int8"
    try:
        timing = _time(context, network, engine)
        ratio = f"× {timing.ratio:.3f} ± {timing.ratio_stderr:.3f} of the dense network's time in float32"
        if timing.ratio + CONFIDENT * timing.ratio_stderr >= 1:
            return False, f"int8 is not faster on this machine, {ratio}"
        score, reference = _score(context, network, engine.file)
    except AutopruneError as error:
        return False, str(error)
    is_worse = bool(score.fault) or score.gain + CONFIDENT * score.stderr < 0
    return not is_worse, f"{_in_words(score, reference)}, in int8 {ratio}"


def _in_words(score: Int8Score, reference: FloatScore) -> str:
    quality = reference.examples.quality
    if score.fault:
        return f"the dense network's answers are {score.fault}"
    before, after = quality.with_unit(reference.value), quality.with_unit(score.value)
    return f"the dense network's {quality.name} is {after}, and {before} in float32"


def _time(context: StudyContext, network: nn.Module, engine: Engine) -> TimingResult:
    """Time the dense network in int8, in alternation with float32."""
    plan, batch = timing_plan(context.spec.latency), timing_batch(context, network)
    with cpu_threads(plan.threads):
        before, after = (one.prepare(network, batch, plan.threads) for one in (engine, int8_engine(engine)))
    return timed(before, after, Inputs((), {}), plan)


def _score(context: StudyContext, network: nn.Module, file_of: FileOf) -> tuple[Int8Score, FloatScore]:
    """Score the dense network in int8, calibrated on training examples, and in float32."""
    twin = copy_network(network).cpu().eval()
    examples, threads = examples_of(context.task, twin), context.spec.latency.threads
    content = file_of(network, timing_batch(context, network), threads)
    return int8_score(content, twin, examples, threads)
