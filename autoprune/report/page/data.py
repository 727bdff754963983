"""What the report page computes with, as one JSON document: every trial in columns, and what they are compared with.

Numbers that the choice under a budget depends on are exact, to the last bit: the page must choose as
:func:`best_within` does. Numbers that are only shown are rounded.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.analysis.comparison import baselines_for
from autoprune.analysis.luck import luck_of_the_best
from autoprune.core.int8_loss import INT8_GAIN
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import METRICS, Metric
from autoprune.core.number_formats import NUMBERS
from autoprune.core.preference import COST_OF
from autoprune.core.trial import KINDS, Completed, Failed, OverBudget, Stopped, Trial, Untimed, kind_of
from autoprune.report.content.axes import axis_title, quality_range
from autoprune.report.content.hypervolume_history import history
from autoprune.report.content.quality_words import study_metrics, title
from autoprune.report.content.rows import first_line
from autoprune.report.content.summary import Summary
from autoprune.report.page.policy_encoding import encode_policies

if TYPE_CHECKING:
    from autoprune.study.view import StudyView

SHORT_TITLES = {
    "mflops": "MFLOPs",
    "latency_ms": "Latency",
    "size_mb": "Size",
    "mparams": "Parameters",
    "nonzero_mflops": "MFLOPs not zero",
    "nonzero_mparams": "Parameters not zero",
}


def titles_of(summary: Summary) -> dict[str, str]:
    """Return what each cost is called, of a size with its format."""
    return {**SHORT_TITLES, "size_mb": f"{SHORT_TITLES['size_mb']} in {NUMBERS[summary.size_format]}"}


def page_document(view: StudyView, summary: Summary) -> dict[str, object]:
    """Return the document; everything in it is finite, and text is as it was stored."""
    trials = view.trials
    costs = costs_to_choose(summary, trials)
    known_metrics = study_metrics(summary.qualities)
    channels = {name: group.channels for name, group in view.facts.groups.items()}
    return {
        "study": summary.study,
        "folder": command_path(view.folder.path),
        "objectives": list(summary.objectives),
        "costs": costs,
        "first": "latency_ms" if "latency_ms" in costs and "latency_ms" in summary.objectives else None,
        "metrics": {
            name: {
                "unit": known.unit,
                "digits": known.digits,
                "cost": known.is_cost,
                "resolution": known.resolution,
            }
            for name, known in known_metrics.items()
        },
        "qualities": [_quality(one) for one in summary.qualities],
        "axes": {name: axis_title(name, summary) for name, known in METRICS.items() if known.is_cost},
        "titles": titles_of(summary),
        "quality_range": list(quality_range(summary)),
        "budget": {name: limit.value for name, limit in summary.budget.limits.items()},
        "dense": {"values": dict(summary.dense.values), "stderr": dict(summary.dense.stderr)},
        "front": [row.number for row in summary.front],
        "prefer": COST_OF[summary.prefer],
        "luck": _luck(sum(isinstance(trial.outcome, Completed) for trial in trials)),
        "best": summary.best.number if summary.best else None,
        "knee": summary.knee.number if summary.knee else None,
        "baselines": [trial.number for trial in baselines_for(trials, summary.budget)],
        "trials": trial_columns(trials, summary.qualities, COST_OF[summary.prefer]),
        "policies": encode_policies([trial.candidate.policy for trial in trials], channels),
        "screened": _screened_columns(summary),
        "history": history(trials, summary.objectives, summary.dense).to_json(),
    }


def _luck(most: int) -> list[float]:
    """Return by how many standard errors luck lifts the best of 1, 2 … completed trials."""
    return [round(luck_of_the_best(count, math.sqrt(2)), 12) for count in range(1, most + 1)]


def _screened_columns(summary: Summary) -> dict[str, object]:
    """Return, by cost, the numbers, costs and rises of the screened front, and what of their quality is known."""
    curves = summary.screening.curves if summary.screening else {}
    return {
        cost: {
            "number": [point.number for point in points],
            "cost": [point.cost for point in points],
            "rise": [round(point.rise, 4) for point in points],
            "quality": [point.quality for point in points],
            "stderr": [point.stderr for point in points],
        }
        for cost, points in curves.items()
    }


def command_path(path: Path) -> str:
    """Return a study's folder as a command takes it, quoted for a shell; a bare name would be looked up elsewhere.

    >>> command_path(Path("studies/digits")), command_path(Path("my study"))
    ('studies/digits', "'./my study'")
    """
    text = str(path)
    return shlex.quote(text if len(path.parts) > 1 or path.is_absolute() else f"./{text}")


def costs_to_choose(summary: Summary, trials: Sequence[Trial]) -> list[str]:
    """Return the costs that every completed trial and the dense network have, MFLOPs first."""
    found = [trial.outcome.measurement for trial in trials if isinstance(trial.outcome, Completed)]
    return [name for name in SHORT_TITLES if all(name in measured.values for measured in (summary.dense, *found))]


def _quality(metric: Metric) -> dict[str, object]:
    """Return what the page needs to know of a quality to write and to order its values."""
    return {
        "name": metric.name,
        "title": title(metric),
        "unit": metric.unit,
        "gap_unit": metric.gap_unit,
        "digits": metric.digits,
        "scale": metric.scale,
        "sign": -metric.minimised(1.0),
    }


def trial_columns(
    trials: Sequence[Trial], qualities: Sequence[Metric], preferred: str | None = None
) -> dict[str, object]:
    """Return the finished trials column by column, in order; ``None`` is what a trial does not have.

    Args:
        trials: in the order of the columns.
        qualities: what they are judged by.
        preferred: the cost that decides between networks that are as good within noise.
    """
    measured = [_measurement(trial) for trial in trials]
    own, known = {one.name for one in qualities}, study_metrics(qualities)
    exact = {*own, preferred}
    told = [INT8_GAIN, *known]
    names = [name for name in told if any(name in m.values for m in measured)]
    errors = [name for name in told if any(name in m.stderr for m in measured)]
    return {
        "number": [trial.number for trial in trials],
        "kind": column([KINDS.index(kind_of(trial.outcome)) for trial in trials]),
        "origin": column([trial.candidate.origin.rpartition(":")[2] for trial in trials]),
        "baseline": column([int(trial.candidate.is_baseline) for trial in trials]),
        "session": column([trial.session for trial in trials]),
        "seconds": column([_shown(trial.total_seconds) for trial in trials]),
        "reason": column([_reason(trial) for trial in trials]),
        "values": {name: column([_exact(name, m.values.get(name), own) for m in measured]) for name in names},
        "stderr": {name: column([_error(name, m.stderr.get(name), exact) for m in measured]) for name in errors},
    }


def column(values: Sequence[Any]) -> Any:
    """Return a column; one with few distinct values as those and where each stands, which is shorter.

    >>> column([1, 2, 3]), column(["guided"] * 4)
    ([1, 2, 3], {'values': ['guided'], 'index': [0, 0, 0, 0]})
    """
    distinct = dict.fromkeys(values)
    if 2 * len(distinct) > len(values):
        return list(values)
    place = {value: index for index, value in enumerate(distinct)}
    return {"values": list(distinct), "index": [place[value] for value in values]}


def _measurement(trial: Trial) -> Measurement:
    return trial.outcome.measurement if not isinstance(trial.outcome, Failed) else Measurement({})


def _reason(trial: Trial) -> str:
    """Return in one line why a trial did not complete; empty if it did."""
    match trial.outcome:
        case Completed():
            return ""
        case Stopped(reason, _):
            return first_line(reason)
        case Untimed(reason):
            return f"no latency yet: {first_line(reason)}"
        case OverBudget(_, violations):
            return ", ".join(f"{name} {100 * excess:.3g} % over its limit" for name, excess in violations.items())
        case Failed(error, message):
            return f"{error}: {first_line(message)}" if message else error


def _exact(name: str, value: float | None, qualities: Set[str]) -> float | None:
    """Return what the choice depends on as it is, and the rest in six significant digits."""
    exact = name == "loss" or name in qualities or (name in METRICS and METRICS[name].is_cost)
    return value if value is None or exact else _rounded(value)


def _error(name: str, value: float | None, exact: Set[str | None]) -> float | None:
    return value if value is None or name in exact else _rounded(value, 3)


def _rounded(value: float, digits: int = 6) -> float:
    return float(f"{value:.{digits}g}")


def _shown(seconds: float) -> float | None:
    return round(seconds, 1) if math.isfinite(seconds) else None
