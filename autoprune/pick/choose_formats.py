"""Which formats a picked network is exported to, and how much it may lose in int8."""

from __future__ import annotations

from dataclasses import replace

from autoprune.analysis.quality_limits import QualityLimits
from autoprune.core.export_formats import INT8, Int8Limit, Wanted, wanted_formats
from autoprune.errors import UsageError
from autoprune.study.view import StudyView


def choose_formats(
    view: StudyView,
    export: str | None = None,
    *,
    int8: bool = False,
    int8_max_drop: float | None = None,
    quality: QualityLimits | None = None,
    qat: bool | None = None,
) -> Wanted:
    """Return the formats of a pick.

    Args:
        view: the study.
        export: names of formats with commas between them, ``auto`` or ``none``; ``None`` for the study's own.
        int8: whether int8 is wanted besides; ``auto`` brings it where the study timed its trials in int8.
        int8_max_drop: how much may be lost in int8, a fraction; ``None`` for the study's own.
        quality: how good the network must be, in int8 too if it is so in float32.
        qat: whether the network is trained with the rounding of int8; ``None`` for the study's own, which counts where
            int8 is among the formats.

    Raises:
        UnknownNameError: if a format is not known.
        UsageError: if what ONNX needs is not installed and it was asked for, or int8 is not among the formats and
            training for it was asked for.
    """
    own = view.spec.pick
    drop = own.int8_max_drop if int8_max_drop is None else int8_max_drop
    worst = quality.values.get(view.spec.quality) if quality else None
    names, limit = own.export if export is None else export, Int8Limit(drop, worst)
    is_as_searched = names == "auto" and not int8 and view.spec.latency.format == "int8"  # and so it is shipped
    wanted = wanted_formats(names, int8=int8 or is_as_searched, limit=limit)
    wanted = replace(wanted, is_explicit=wanted.is_explicit and not is_as_searched)
    if qat and INT8 not in wanted.formats:
        raise UsageError("--qat trains for int8, which is not among the formats; add --int8, or leave --qat out")
    return replace(wanted, qat=(own.qat if qat is None else qat) and INT8 in wanted.formats)
