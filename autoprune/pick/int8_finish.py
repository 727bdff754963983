"""The last part of the longer fine-tune, taken once more by the winner of a contest with the rounding of int8.

The same examples come at the same learning rates, with the dense network as the teacher where it was one. The finished
network stays as it is, and is what all other files hold: which of the two becomes int8, the export decides.
"""

from __future__ import annotations

import time
from dataclasses import replace

from torch import nn

from autoprune.core.notify import Notify
from autoprune.core.trial import Trial
from autoprune.errors import EvaluationError
from autoprune.export.cpu_flags import reduces_range
from autoprune.export.int8_trained import Int8Trained
from autoprune.models.copying.copy_network import copy_network
from autoprune.pick.unfinished_pick import Unfinished
from autoprune.search.evaluation.make_network import NetworkMaker
from autoprune.search.evaluation.stopwatch import Stopwatch
from autoprune.training.fake_quantise import REDUCED_LEVELS, WEIGHT_LEVELS, fake_quantised, not_rounded

LAST_SHARE = 0.25  # of the fine-tune's steps, which are taken once more


def trained_for_int8(
    trial: Trial, network: nn.Module, maker: NetworkMaker, memory: Unfinished, notify: Notify
) -> Int8Trained:
    """Return a finished network trained further with rounding; one that an earlier pick has trained is not again.

    Numbers are rounded in float32, whatever the precision of the fine-tune: bfloat16 has no more digits than int8.

    Args:
        trial: that it comes from.
        network: finished; not touched.
        maker: that trained it.
        memory: of the pick.
        notify: called with a sentence when it begins, or fails.
    """
    known = memory.trained_for_int8(trial)
    if known is not None:
        return known
    notify(f"trial {trial.number}: the last {100 * LAST_SHARE:g} % of the fine-tune once more, rounded as in int8")
    started = time.perf_counter()
    twin, exact = copy_network(network), replace(maker, runtime=replace(maker.runtime, precision="fp32"))
    try:
        with fake_quantised(twin, REDUCED_LEVELS if reduces_range() else WEIGHT_LEVELS) as mode:
            watch = Stopwatch(lambda phase: None)
            exact.finetune(twin, trial.candidate.policy, watch, share=(1 - LAST_SHARE, 1.0))
            left = not_rounded(twin, mode)
    except EvaluationError as error:
        return Int8Trained(None, LAST_SHARE, time.perf_counter() - started, failure=" ".join(str(error).split()))
    twin.zero_grad(set_to_none=True)
    if left:
        notify(f"trained without rounding, as no call of theirs can be caught: {', '.join(left)}")
    trained = Int8Trained(twin, LAST_SHARE, time.perf_counter() - started, left)
    memory.keep_trained_for_int8(trial, trained)
    return trained
