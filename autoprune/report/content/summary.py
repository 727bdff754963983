"""Everything a report contains about a study, as plain data: tables, files and plots only lay it out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autoprune.analysis import pareto
from autoprune.analysis.comparison import DENSE, Comparison, Scored, worth
from autoprune.analysis.comparison_notes import chance_notes
from autoprune.core.budget import Budget
from autoprune.core.int8_loss import INT8_GAIN
from autoprune.core.json_values import JsonObject
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import ACCURACY, FLOP_CONVENTION, METRICS, Metric
from autoprune.core.preference import PREFERRED, Preference
from autoprune.core.trial import Completed, Failed, OverBudget, Stopped, Trial, Untimed
from autoprune.report.content.not_faster import not_faster_notes
from autoprune.report.content.notes import compose_notes, latency_notes, regularisation_notes
from autoprune.report.content.quality_words import study_metrics
from autoprune.report.content.rows import Failure, Row, choose_rows, failures
from autoprune.report.content.screened_text import ShownScreening, screening_notes, shown_screening
from autoprune.report.content.sensitivity_text import ShownSensitivity, read_sensitivity
from autoprune.report.content.stopping_worth import StoppingFacts, stopping_facts, stopping_notes
from autoprune.report.content.who_worked import WorkerShare, worker_shares
from autoprune.study.screened_file import read_screening

if TYPE_CHECKING:
    from autoprune.study.view import StudyView  # never at run time here: a report's layout needs no optuna

KINDS: Mapping[str, type] = {
    "completed": Completed,
    "over_budget": OverBudget,
    "stopped": Stopped,
    "failed": Failed,
    "untimed": Untimed,
}


@dataclass(frozen=True)
class Summary:
    """What a report contains about a study at one moment.

    Attributes:
        study: the study's name.
        objectives: metric names, the quality first.
        noise_aware: whether the front leaves out what is better only within noise.
        budget: absolute limits that the best network must meet; may be empty.
        dense: what was measured of the dense network on validation.
        rows: the front, best first; then the best network and the baselines that are not on it.
        hypervolume: share of the box between no accuracy at dense cost and perfection that is dominated.
        counts: ``completed``, ``over_budget``, ``stopped``, ``failed``, ``untimed`` → number of finished trials.
        running: trials that were begun and have not ended, in a live search or in one that died.
        failures: the failed trials with their reasons.
        seconds: phase → seconds spent by all trials together, the longest first.
        sessions: how many runs the study has had.
        notes: what to know before trusting the table, the most important first.
        worth: how the best network compares with each baseline and with the dense network, on validation.
        sensitivity: how much each group and block alone matters; ``None`` if it was not measured.
        stopping: what early stopping was worth.
        qualities: what networks are judged by, the leading metric first.
        workers: who evaluated what, run by run.
        prefer: what decides which of several networks that are as good within noise is the best.
        screening: what was looked at without training; ``None`` if nothing was.
        dense_float32_ms: the dense network's latency in float32 where networks are timed in int8; ``None`` elsewhere.
        size_format: the format that sizes are those of, ``fp32`` or ``int8``.
    """

    study: str
    objectives: tuple[str, ...]
    noise_aware: bool
    budget: Budget
    dense: Measurement
    rows: tuple[Row, ...]
    hypervolume: float
    counts: Mapping[str, int]
    running: int
    failures: tuple[Failure, ...]
    seconds: Mapping[str, float]
    sessions: int
    notes: tuple[str, ...]
    worth: tuple[Comparison, ...] = ()
    sensitivity: ShownSensitivity | None = None
    stopping: StoppingFacts = field(default_factory=StoppingFacts)
    qualities: tuple[Metric, ...] = (ACCURACY,)
    workers: tuple[WorkerShare, ...] = ()
    prefer: Preference = PREFERRED
    screening: ShownScreening | None = None
    dense_float32_ms: float | None = None
    size_format: str = "fp32"

    @property
    def quality(self) -> Metric:
        """Return the metric that leads."""
        return self.qualities[0]

    @property
    def front(self) -> tuple[Row, ...]:
        """Return the rows on the front, best first."""
        return tuple(row for row in self.rows if row.on_front)

    @property
    def best(self) -> Row | None:
        """Return the network that a pick for the budget would take, or ``None`` if none meets it."""
        return next((row for row in self.rows if row.is_best), None)

    def times_float32(self, measurement: Measurement) -> float | None:
        """Return how many times as fast a network in int8 is as the dense one in float32, where both are known."""
        latency = measurement.values.get("latency_ms")
        return self.dense_float32_ms / latency if self.dense_float32_ms and latency else None

    @property
    def has_int8(self) -> bool:
        """Return whether of any row it is known what it loses in int8."""
        return any(INT8_GAIN in row.measurement.values for row in self.rows)

    @property
    def knee(self) -> Row | None:
        """Return where the front bends, or ``None`` if it is too short to bend."""
        return next((row for row in self.rows if row.is_knee), None)

    @property
    def total_seconds(self) -> float:
        """Return the time spent in all trials."""
        return sum(self.seconds.values())

    def to_json(self) -> JsonObject:
        """Return plain types for JSON; every number is in the unit listed under ``units``, shares are fractions."""
        return {
            "study": self.study,
            "flop_convention": FLOP_CONVENTION,
            "units": {name: known.unit_or_fraction for name, known in study_metrics(self.qualities).items()},
            "qualities": [{"name": one.name, "unit": one.unit_or_fraction, "goal": one.goal} for one in self.qualities],
            "objectives": list(self.objectives),
            "noise_aware": self.noise_aware,
            "budget": {name: limit.value for name, limit in self.budget.limits.items()},
            "prefer": self.prefer,
            "best": self.best.number if self.best else None,
            "knee": self.knee.number if self.knee else None,
            "hypervolume": self.hypervolume,
            "dense": self.dense.to_json(),
            "dense_float32_ms": self.dense_float32_ms,
            "size_format": self.size_format,
            "rows": [row.to_json() for row in self.rows],
            "counts": dict(self.counts),
            "running": self.running,
            "failures": [failure.to_json() for failure in self.failures],
            "seconds": {"total": self.total_seconds, "by_phase": dict(self.seconds)},
            "sessions": self.sessions,
            "workers": [worker.to_json() for worker in self.workers],
            "notes": list(self.notes),
            "worth": [comparison.to_json() for comparison in self.worth],
            "sensitivity": self.sensitivity.to_json() if self.sensitivity else None,
            "stopping": self.stopping.to_json(),
            "screening": self.screening.to_json() if self.screening else None,
        }


def summarise(
    view: StudyView, budget: Budget | None = None, noise_aware: bool = True, prefer: Preference | None = None
) -> Summary:
    """Return the summary of a stored study.

    Args:
        view: the study, read only.
        budget: limits, absolute or relative to the dense network; ``None``: those of the last run.
        noise_aware: whether values within their standard error count as equal on the front.
        prefer: what decides which of several networks that are as good within noise is the best; ``None`` for the
            study's own.

    Raises:
        StudyError: if the study was interrupted before its dense network was measured, or a file of it is damaged.
        BudgetError: if the budget limits what the study does not measure.
    """
    dense, trials, prefer = view.dense, view.trials, prefer or view.spec.pick.prefer
    wanted = (view.budget if budget is None else budget).in_units(dense)
    objectives = quality_first(view.spec.objectives)
    quality = view.spec.quality
    rows = choose_rows(trials, wanted, dense, objectives, quality, noise_aware, prefer)
    reference = Scored(DENSE, None, dense, view.facts.dense_paired)
    stopping, screening = stopping_facts(trials, quality), _screening(view)
    return Summary(
        study=view.spec.name,
        objectives=objectives,
        noise_aware=noise_aware,
        budget=wanted,
        dense=dense,
        rows=rows,
        hypervolume=pareto.hypervolume(trials, objectives, dense),
        counts={kind: sum(isinstance(trial.outcome, ended) for trial in trials) for kind, ended in KINDS.items()},
        running=view.running,
        failures=failures(trials),
        seconds=_seconds_by_phase(trials),
        sessions=len(view.sessions),
        notes=(*_notes(view, rows, wanted, reference, stopping, prefer), *screening_notes(screening)),
        worth=worth(trials, wanted, reference, quality, prefer),
        sensitivity=read_sensitivity(view.folder.sensitivity),
        stopping=stopping,
        qualities=tuple(one for one in view.spec.qualities if one == quality or one.name in dense.values),
        workers=worker_shares(trials, view.sessions),
        prefer=prefer,
        screening=screening,
        dense_float32_ms=_dense_float32_ms(view),
        size_format=view.facts.size_format,
    )


def _dense_float32_ms(view: StudyView) -> float | None:
    how = view.sessions[-1].latency if view.sessions else {}
    known: Any = how.get("dense_fp32_ms")
    return float(known) if how.get("format") == "int8" and known else None


def _screening(view: StudyView) -> ShownScreening | None:
    channels = {name: group.channels for name, group in view.facts.groups.items()}
    costs = [name for name, known in METRICS.items() if known.is_cost]
    seen = read_screening(view.folder.screened)
    return shown_screening(seen, view.trials, channels, view.dense, costs, view.spec.quality.name)


def _notes(
    view: StudyView,
    rows: Sequence[Row],
    budget: Budget,
    dense: Scored,
    stopping: StoppingFacts,
    prefer: Preference,
) -> tuple[str, ...]:
    """Return what to know before trusting the table, the most important first."""
    quality, data = view.spec.quality, view.facts.data
    return (
        *chance_notes(dense.measurement, quality, data.chance, data.num_classes),
        *compose_notes(rows, view.trials, budget, dense, quality_first(view.spec.objectives), quality, prefer),
        *regularisation_notes(view.facts.regularisation, quality),
        *not_faster_notes(rows, view.spec),
        *(stopping_notes(stopping) if rows else ()),
        *latency_notes(view.sessions, view.trials),
    )


def quality_first(objectives: Sequence[str]) -> tuple[str, ...]:
    """Return the objectives with the qualities before the costs, otherwise in order.

    >>> quality_first(("mflops", "accuracy", "latency_ms"))
    ('accuracy', 'mflops', 'latency_ms')
    """
    return tuple(sorted(objectives, key=lambda name: METRICS[name].is_cost))


def _seconds_by_phase(trials: Sequence[Trial]) -> dict[str, float]:
    spent: Counter[str] = Counter()
    for trial in trials:
        spent.update(trial.seconds)
    return dict(spent.most_common())
