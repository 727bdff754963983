"""The dense network's costs, validation score and reference latency, measured once per study."""

from __future__ import annotations

import json

from torch import nn

from autoprune.core.counts import ChannelCounts
from autoprune.core.measurement import Measurement
from autoprune.cost.cost_model import CostModel
from autoprune.cost.latency import NetworkTimer
from autoprune.cost.timing_engines import Engine
from autoprune.search.evaluation.measure_quality import quality_and_answers
from autoprune.search.setup.build_costs import timer_of
from autoprune.search.setup.context import StudyContext
from autoprune.search.setup.once import once
from autoprune.search.setup.regularised_network import regularisation_facts
from autoprune.study.dense_facts import DenseFacts, read_dense_file

REFERENCE_BLOCKS = 15


def measure_dense(
    context: StudyContext, network: nn.Module, cost: CostModel, timer: NetworkTimer, float_engine: Engine
) -> Measurement:
    """Return what was measured of the dense network: stored in the study, or measured now and then stored.

    Args:
        context: with the layout and the latency runtime decided.
        network: the dense network, in eval mode and placed.
        cost: closed-form costs.
        timer: whose dense network it is.
        float_engine: times it in float32 beside, if the timer does so in int8.

    Raises:
        StudyError: if the stored file is damaged.
        TimingError: if another machine is to time it, and does not.
    """

    def fp32_ms() -> float | None:
        """Return the latency in float32, where networks are timed in int8."""
        if timer.format == "fp32":
            return None
        return timer_of(context, network, float_engine).compare(blocks=REFERENCE_BLOCKS).dense_ms

    def measure() -> DenseFacts:
        context.notify("scoring and timing the dense network")
        quality, paired = quality_and_answers(network, context.task, context.device)
        timing = timer.compare(blocks=REFERENCE_BLOCKS)
        latency = Measurement({"latency_ms": timing.dense_ms}, {"latency_ms": timing.ratio_stderr * timing.dense_ms})
        return DenseFacts(
            measurement=cost.measure(ChannelCounts()).merged(quality).merged(latency),
            data=context.task.identity(),
            runtime=context.device.describe(),
            regularisation=regularisation_facts(context.folder),
            paired=paired,
            latency_runtime=timer.runtime,
            latency_format=timer.format,
            fp32_latency_ms=fp32_ms(),
            int8_overhead=cost.int8,
            latency_host=timer.host,
        )

    facts = once(
        context.folder.dense_facts, read_dense_file, measure, lambda found: json.dumps(found.to_json(), indent=2)
    )
    return facts.measurement
