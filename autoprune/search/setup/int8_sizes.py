"""What files in int8 hold beside weights, found once per study: so that sizes are those of what is shipped."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from autoprune.core.int8_overhead import Int8Overhead
from autoprune.cost.int8_size import int8_bytes, total_bytes
from autoprune.cost.timing_engines import Engine
from autoprune.export.int8_timing import int8_stand_in
from autoprune.pruning.surgery import Pruner
from autoprune.search.setup.build_costs import timing_batch
from autoprune.search.setup.context import StudyContext
from autoprune.study.dense_facts import read_dense_facts

_WIDTH = 0.5  # of the networks that are written; a cut network may have other operations than the dense one


def int8_overhead(context: StudyContext, pruner: Pruner, engine: Engine) -> Int8Overhead | None:
    """Return what files in int8 hold beside weights; ``None`` where sizes are those of float32.

    That is where latency is timed in float32, and in studies that began before sizes could be those of int8.

    Args:
        context: with the latency format decided.
        pruner: cuts networks of the space.
        engine: of the latency runtime, in float32.

    Raises:
        ExportError: if a network of the space cannot be quantised.
    """
    file_of = engine.file
    if context.spec.latency.format != "int8" or file_of is None:
        return None
    if context.folder.dense_facts.exists():
        return read_dense_facts(context.folder).int8_overhead
    space, narrow = pruner.space, pruner.space.scaled(_WIDTH)
    total = _beside_weights(context, _cut(pruner, narrow), file_of)
    if not space.blocks:
        return Int8Overhead(total)
    short = {**narrow, **{block.name: 0 for block in space.blocks}}
    return Int8Overhead(total, total - _beside_weights(context, _cut(pruner, short), file_of))


def _cut(pruner: Pruner, numbers: Mapping[str, int]) -> nn.Module:
    space = pruner.space
    return pruner.prune(space.policy(space.normalized(space.of_cut_numbers(dict(numbers))))).eval()


def _beside_weights(context: StudyContext, cut: nn.Module, file_of: Callable[..., bytes]) -> int:
    """Return by how much a network's file in int8 is larger than its tensors."""
    network = context.device.place(cut)
    content = file_of(network, timing_batch(context, network), context.spec.latency.threads)
    return len(int8_stand_in(content)) - total_bytes(network, int8_bytes(network))
