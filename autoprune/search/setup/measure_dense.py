"""The dense network's costs, validation score and reference latency, measured once per study."""

from __future__ import annotations

import json

from torch import nn

from autoprune.core.measurement import Measurement
from autoprune.cost.latency import NetworkTimer
from autoprune.search.evaluation.measure_quality import quality_and_answers
from autoprune.search.setup.context import StudyContext
from autoprune.search.setup.once import once
from autoprune.search.setup.regularised_network import regularisation_facts
from autoprune.study.dense_facts import DenseFacts, read_dense_file

REFERENCE_BLOCKS = 15


def measure_dense(context: StudyContext, network: nn.Module, exact: Measurement, timer: NetworkTimer) -> Measurement:
    """Return what was measured of the dense network: stored in the study, or measured now and then stored.

    Args:
        context: with the layout and the latency runtime decided.
        network: the dense network, in eval mode and placed.
        exact: its closed-form costs.
        timer: whose dense network it is.

    Raises:
        StudyError: if the stored file is damaged.
        TimingError: if another machine is to time it, and does not.
    """

    def measure() -> DenseFacts:
        context.notify("scoring and timing the dense network")
        quality, paired = quality_and_answers(network, context.task, context.device)
        timing = timer.compare(blocks=REFERENCE_BLOCKS)
        latency = Measurement({"latency_ms": timing.dense_ms}, {"latency_ms": timing.ratio_stderr * timing.dense_ms})
        return DenseFacts(
            measurement=exact.merged(quality).merged(latency),
            data=context.task.identity(),
            runtime=context.device.describe(),
            regularisation=regularisation_facts(context.folder),
            paired=paired,
            latency_runtime=timer.runtime,
            latency_host=timer.host,
        )

    facts = once(
        context.folder.dense_facts, read_dense_file, measure, lambda found: json.dumps(found.to_json(), indent=2)
    )
    return facts.measurement
