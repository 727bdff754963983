"""What a report calls the qualities that a study is judged by, and which metrics belong to a study."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from autoprune.core.measurement import Measurement
from autoprune.core.metrics import ACCURACY, METRICS, TRAIN, Metric
from autoprune.study.spec import is_told_only

_TITLES = {"accuracy": "Accuracy", "loss": "Loss"}  # any other is shown as its user writes it


def study_metrics(qualities: Iterable[Metric]) -> dict[str, Metric]:
    """Return the metrics of a study by name, in the order of tables: its qualities, losses, then costs.

    The registry may hold more, of other studies that were read before.
    """
    own = dict[str, Metric]()
    for quality in qualities:
        train = f"{TRAIN}{quality.name}"
        own[quality.name] = quality
        if train in METRICS:
            own[train] = METRICS[train]
    losses = {name: known for name, known in METRICS.items() if name == "loss" or _is_look(name)}
    return {**own, **losses, **{name: known for name, known in METRICS.items() if known.is_cost}}


def _is_look(name: str) -> bool:
    return is_told_only(name) and not name.startswith(TRAIN)


def columns_of(qualities: Sequence[Metric]) -> tuple[str, ...]:
    """Return the names of a study's qualities, and of the loss, each once.

    >>> columns_of([Metric("rmse"), Metric("loss", goal="min")])
    ('rmse', 'loss')
    """
    return tuple(dict.fromkeys([*(quality.name for quality in qualities), "loss"]))


def title(metric: Metric) -> str:
    """Return a metric's name as a heading.

    >>> title(ACCURACY), title(Metric("rmse"))
    ('Accuracy', 'rmse')
    """
    return _TITLES.get(metric.name, metric.name)


def with_unit_of(metric: Metric, words: str, mark: str = "{}") -> str:
    """Return words with a metric's unit behind them, if it has one.

    >>> with_unit_of(ACCURACY, "accuracy", "({})"), with_unit_of(Metric("rmse"), "rmse")
    ('accuracy (%)', 'rmse')
    """
    return f"{words} {mark.format(metric.unit)}" if metric.unit else words


def best_of_all(quality: Metric) -> str:
    """Return what the best network is called where there is no budget.

    >>> best_of_all(ACCURACY), best_of_all(Metric("rmse"))
    ('most accurate', 'best rmse')
    """
    return "most accurate" if quality == ACCURACY else f"best {quality.name}"


def plus_minus(measurement: Measurement, metric: Metric) -> str:
    """Return a value with its standard error if it has one, a fraction in per cent, and without its unit.

    >>> plus_minus(Measurement({"accuracy": 0.9833}, {"accuracy": 0.0061}), ACCURACY)
    '98.33 ± 0.61'
    """
    shown, error = metric.number(measurement[metric.name]), measurement.error(metric.name)
    return f"{shown} ± {metric.number(error)}" if error else shown
