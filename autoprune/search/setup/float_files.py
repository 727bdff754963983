"""The ONNX files in float32 of a study's networks, from which those in int8 are made."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from autoprune.errors import UsageError
from autoprune.export.timing_runtimes import engine_of
from autoprune.search.setup.build_costs import timing_batch
from autoprune.search.setup.prepared_study import PreparedStudy


def float_files(study: PreparedStudy) -> Callable[[nn.Module], bytes]:
    """Return what gives a network's file: derived from that of the dense network, which is exported if need be.

    Raises:
        UsageError: if the study's latency runtime has no files.
        ExportError: if the dense network cannot be exported.
    """
    engine, threads = engine_of(study.timer.runtime, study.folder.template), 1
    batch = timing_batch(study.context, study.network)
    content = engine.file
    if content is None:
        raise UsageError(f"latency.format is int8, and latency.runtime {engine.name}, which has no int8; give fp32")
    content(study.network, batch, threads)
    return lambda network: content(network, batch, threads)
