"""Which of two networks becomes int8: the finished one, or the same one trained further with the rounding of int8.

Both are held against each other with every layer in int8, on the same validation examples. What was trained is taken
only where it is better beyond noise: else the file has the very weights of the other files.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from autoprune.core.measurement import CONFIDENT
from autoprune.core.paired_scores import paired_difference
from autoprune.errors import ExportError
from autoprune.export.export_result import Int8Training
from autoprune.export.int8_calibration import CalibratedModel
from autoprune.export.int8_score import Int8Score


@dataclass(frozen=True)
class Int8Trained:
    """A network that was trained further with the rounding of int8.

    Attributes:
        network: in eval mode; ``None`` if its training failed.
        share: of the fine-tune's steps, the last of them, which were taken once more.
        seconds: that they took.
        not_rounded: layers with weights that were trained without rounding, by path.
        failure: why there is no network, in words.
    """

    network: nn.Module | None = field(repr=False)
    share: float
    seconds: float
    not_rounded: tuple[str, ...] = ()
    failure: str = ""


def chosen_model(
    static: CalibratedModel,
    trained: Int8Trained,
    calibrate: Callable[[nn.Module], CalibratedModel],
    judge: Callable[[CalibratedModel], Int8Score],
    gain_of: Callable[[float], float],
) -> tuple[CalibratedModel, Int8Training]:
    """Return the network that becomes int8, and what came of the comparison.

    Args:
        static: the finished network, calibrated.
        trained: the other one.
        calibrate: a network → the same, ready to be quantised.
        judge: such a network → what it is worth with every layer in int8.
        gain_of: difference of two scores → by how much the first is better.

    Raises:
        ExportError: if the finished network cannot be quantised.
    """
    if trained.network is None:
        failed = Int8Training(False, trained.share, trained.seconds, failure=trained.failure)
        return static, failed
    before = judge(static)
    try:
        model = calibrate(trained.network)
        after = judge(model)
    except ExportError as error:
        return static, Int8Training(False, trained.share, trained.seconds, failure=str(error))
    gain, stderr = _gain(after, before, gain_of)
    is_kept = gain > 0 and (math.isinf(gain) or gain > CONFIDENT * stderr)
    told = Int8Training(
        is_kept, trained.share, trained.seconds, after.value, before.value, gain, stderr, trained.not_rounded
    )
    return model if is_kept else static, told


def _gain(after: Int8Score, before: Int8Score, gain_of: Callable[[float], float]) -> tuple[float, float]:
    """Return by how much one is better, and the standard error of that; infinite if only one of them is sound."""
    if after.paired is None:
        return -math.inf, math.nan
    if before.paired is None:
        return math.inf, math.nan
    difference, stderr = paired_difference(after.paired, before.paired)
    return gain_of(difference), stderr
