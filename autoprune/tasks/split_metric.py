"""What is said of a whole split: a user's own evaluation, or metrics in torchmetrics' form."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from autoprune.core.measurement import Measurement
from autoprune.core.metrics import LOSSES, PER_CENT, Metric
from autoprune.core.user_code import in_user_code
from autoprune.errors import AutopruneError, DataError, NonFiniteError, UsageError
from autoprune.models.calling.inputs import words
from autoprune.tasks.default_forward import default_targets
from autoprune.tasks.distill import main_output
from autoprune.tasks.task import Batch, Evaluated


@dataclass(frozen=True)
class SplitMetrics:
    """Metrics in torchmetrics' form: they are updated batch by batch, and each computes one number.

    Attributes:
        by_name: metric → what has ``update``, ``compute`` and ``reset``.
    """

    by_name: Mapping[str, Any]

    def of(self, answer: Callable[[Batch], Any], batches: Iterable[Batch]) -> dict[str, float]:
        """Return their values over batches.

        Args:
            answer: a batch → the network's output.
            batches: whose targets they are updated with.
        """
        for one in self.by_name.values():
            one.reset()
        for batch in batches:
            output, target = self._given(answer, batch)
            for one in self.by_name.values():
                with told(f"{_class_name(one)}.update"):
                    one.update(output, target)
        return {name: _computed(one) for name, one in self.by_name.items()}

    def _given(self, answer: Callable[[Batch], Any], batch: Batch) -> tuple[Tensor, Tensor]:
        """Return what a batch updates them with: the output's main tensor, and the only target."""
        who = f"{' and '.join(map(_class_name, self.by_name.values()))}, updated with (output, targets):"
        targets = default_targets(batch)
        if len(targets) != 1:
            raise DataError(
                f"{who} a batch has {len(targets)} tensors that may be targets, and expected was one; give "
                "evaluate=lambda network, batches: … instead"
            )
        given = answer(batch)
        output = main_output(given)
        if output is None:
            raise DataError(
                f"{who} which part of what the network returns is the output cannot be told: {words(given)}; give "
                "evaluate=lambda network, batches: … instead"
            )
        return output.detach().cpu(), targets[0].cpu()


def _class_name(one: Any) -> str:
    return type(one).__name__


def _computed(one: Any) -> float:
    who = f"{_class_name(one)}.compute"
    with told(who):
        return as_number(one.compute(), who)


@contextmanager
def told(who: str) -> Iterator[None]:
    """Say whose code it is that fails.

    Raises:
        DataError: if it does.
    """
    try:
        yield
    except AutopruneError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise DataError(f"{who} fails: {in_user_code(error)}; correct it") from error


def as_number(found: Any, who: str) -> float:
    """Return a number that a user's function gave: Python's, NumPy's, or a tensor of one element.

    Raises:
        DataError: if it is none.
    """
    try:
        return float(found)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{who} gave {words(found)}; expected one number") from error


def reduction(reduce: Callable[[Tensor], Any], metric: str, task: str) -> Callable[[Tensor], float]:
    """Return what makes a metric of all rows as a function that gives a number, or says what is wrong."""
    who = f"{task}: reduce of {metric}"

    def reduced(rows: Tensor) -> float:
        with told(who):
            return as_number(reduce(rows), who)

    return reduced


def metrics_of(given: Any) -> tuple[tuple[Metric, ...], SplitMetrics | None]:
    """Return the metrics of what a user gave, and the objects that compute them, if they are such.

    Raises:
        UsageError: if it is none, or its goal is not known.
    """
    if given is None:
        raise UsageError(
            "a task was given no metric; give metric='accuracy', the name of another known one, or "
            "Metric('my_score', goal='max')"
        )
    if isinstance(given, Metric | str):
        return _different((_metric(given),)), None
    if pairs := _in_torchmetrics_form(given):
        metrics = _different([_described(name, one) for name, one in pairs])
        objects = [one for _, one in pairs]
        return metrics, SplitMetrics({metric.name: one for metric, one in zip(metrics, objects, strict=True)})
    if isinstance(given, Sequence) and given and all(isinstance(one, Metric | str) for one in given):
        return _different([*map(_metric, given)]), None
    held = ", ".join(sorted(set(map(_class_name, given)))) if isinstance(given, Sequence) and given else ""
    raise UsageError(
        f"metric is {type(given).__name__}{f' of {held}' if held else ''}; expected a Metric, the name of a known one, "
        "or a list of these; or an object with update, compute and reset, as torchmetrics has, a list or a dictionary "
        "of them, or a MetricCollection"
    )


def is_split_metric(given: Any) -> bool:
    """Return whether something is a metric in torchmetrics' form, or holds nothing else."""
    return bool(_in_torchmetrics_form(given))


def _in_torchmetrics_form(given: Any) -> list[tuple[str, Any]]:
    """Return the metrics in torchmetrics' form with what they are called: a class, or a key; none of anything else."""
    pairs: list[tuple[str, Any]] = []
    if hasattr(given, "items") and not isinstance(given, type):  # a dictionary, and a MetricCollection
        pairs = [(str(key), one) for key, one in given.items()]
    elif _is_updated(given):
        pairs = [(_class_name(given), given)]
    elif isinstance(given, list | tuple):
        pairs = [(_class_name(one), one) for one in given]
    return pairs if all(_is_updated(one) for _, one in pairs) else []


def _is_updated(given: Any) -> bool:
    return not isinstance(given, type) and all(hasattr(given, name) for name in ("update", "compute", "reset"))


def _different(metrics: Sequence[Metric]) -> tuple[Metric, ...]:
    """Return the metrics if each has a name of its own.

    Raises:
        UsageError: if two are called the same, or one as what is measured beside them.
    """
    names = [one.name for one in metrics]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(
            f"metric names {', '.join(twice)} more than once; give every metric once, or several "
            "objects of one class as a dictionary, with a name for each"
        )
    taken = [name for name in names if name in LOSSES]
    if taken:
        raise UsageError(
            f"a metric is called {taken[0]!r}, as what the loss gives; call it for example 'val_{taken[0]}'"
        )
    return tuple(metrics)


def _metric(given: Metric | str) -> Metric:
    return Metric.parse(given) if isinstance(given, str) else given


def _described(called: str, given: Any) -> Metric:
    """Return the name, unit and goal of a metric in torchmetrics' form."""
    apart = re.sub(r"(?<=[a-z]{2})(?=[A-Z])", "_", called).lower()
    name = re.sub(r"[^a-z0-9]+", "_", apart).strip("_")
    is_up = getattr(given, "higher_is_better", None)
    if is_up is None:
        raise UsageError(
            f"the metric is {_class_name(given)}, whose higher_is_better is None, so whether a larger value is better "
            f"is not known; give evaluate=lambda network, batches: … and metric=Metric({name!r}, goal='max') or 'min'"
        )
    goal = "max" if is_up else "min"
    bounds = getattr(given, "plot_lower_bound", None), getattr(given, "plot_upper_bound", None)
    return Metric.parse(f"{name}:{goal}:{PER_CENT if bounds == (0.0, 1.0) else ''}")


def evaluated(given: Any, metrics: Sequence[Metric], who: str) -> Evaluated:
    """Return what a user's evaluation gave, checked.

    Args:
        given: a value, (value, standard error, examples), or a dictionary of either by metric.
        metrics: that are wanted; the first leads.
        who: gave it, for messages.

    Raises:
        DataError: if it is something else.
        NonFiniteError: if a number is NaN or infinite.
    """
    by_name = dict(given) if isinstance(given, Mapping) else {metrics[0].name: given}
    missing = [one.name for one in metrics if one.name not in by_name]
    if missing:
        raise DataError(f"{who} gave {', '.join(map(str, by_name))} and not {', '.join(missing)}; give every metric")
    values, errors, count = dict[str, float](), dict[str, float](), 0
    for one in metrics:
        found = by_name[one.name]
        parts = found if isinstance(found, tuple) else (found,)
        try:
            numbers = [float(part) for part in parts if part is not None]
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{who} gave {found!r} for {one.name}; expected a number, or (value, standard error, examples)"
            ) from error
        if not numbers or len(parts) not in (1, 2, 3):
            raise DataError(f"{who} gave {found!r} for {one.name}; expected (value, standard error, examples)")
        if not all(map(math.isfinite, numbers)):
            raise NonFiniteError(
                f"{who} gave {found!r} for {one.name}; train with a smaller learning rate, or prune less"
            )
        if fault := one.fault_of(numbers[0]):
            raise DataError(f"{who} gave {found!r} for {one.name}, and {fault}")
        values[one.name] = numbers[0]
        if len(parts) > 1 and parts[1] is not None:
            if float(parts[1]) < 0:
                raise DataError(f"{who} gave {found!r} for {one.name}; its standard error is below 0")
            errors[one.name] = float(parts[1])
        if len(parts) == 3 and parts[2] is not None:
            count = int(parts[2])
    return Evaluated(Measurement(values, errors), count)
