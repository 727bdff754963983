"""Which formats a picked network is exported to, and how much it may lose in int8."""

from __future__ import annotations

from dataclasses import replace

from autoprune.analysis.quality_limits import QualityLimits
from autoprune.core.export_formats import Int8Limit, Wanted, wanted_formats
from autoprune.study.view import StudyView


def choose_formats(
    view: StudyView,
    export: str | None = None,
    *,
    int8: bool = False,
    int8_max_drop: float | None = None,
    quality: QualityLimits | None = None,
) -> Wanted:
    """Return the formats of a pick.

    Args:
        view: the study.
        export: names of formats with commas between them, ``auto`` or ``none``; ``None`` for the study's own.
        int8: whether int8 is wanted besides; ``auto`` brings it where the study timed its trials in int8.
        int8_max_drop: how much may be lost in int8, a fraction; ``None`` for the study's own.
        quality: how good the network must be, in int8 too if it is so in float32.

    Raises:
        UnknownNameError: if a format is not known.
        UsageError: if what ONNX needs is not installed and it was asked for.
    """
    own = view.spec.pick
    drop = own.int8_max_drop if int8_max_drop is None else int8_max_drop
    worst = quality.values.get(view.spec.quality) if quality else None
    names, limit = own.export if export is None else export, Int8Limit(drop, worst)
    if names == "auto" and not int8 and view.spec.latency.format == "int8":  # what was searched is what is shipped
        return replace(wanted_formats(names, int8=True, limit=limit), is_explicit=False)
    return wanted_formats(names, int8=int8, limit=limit)
