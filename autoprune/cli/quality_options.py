"""The options that say how good a picked network must be, in any quality that its study measures.

``--min NAME=VALUE`` and ``--max NAME=VALUE`` name any of them; ``--min-accuracy`` is short for accuracy, and
``--max-drop`` counts from the dense network, in the metric that leads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from autoprune.analysis.quality_limits import QualityLimits, fraction, worst_value
from autoprune.cli.headings import Heading, option
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import PER_CENT, Metric
from autoprune.errors import UnknownNameError, UsageError

_F = TypeVar("_F", bound=Callable[..., object])


@dataclass(frozen=True)
class AskedQuality:
    """The options, as they were written.

    Attributes:
        min_accuracy: least validation accuracy, such as ``97%``; ``None`` for any.
        max_drop: by how much the leading metric may be worse than the dense network's, such as ``1%`` or ``0.05``.
        minima: ``NAME=VALUE``, the worst values that will do.
        maxima: the same, of metrics where smaller is better.
    """

    min_accuracy: str | None = None
    max_drop: str | None = None
    minima: tuple[str, ...] = ()
    maxima: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.min_accuracy is not None and self.max_drop is not None:
            raise UsageError("--min-accuracy and --max-drop were both given; give one of them")

    @property
    def flags(self) -> tuple[str, ...]:
        """Return the options that were given."""
        given = {
            "--min-accuracy": self.min_accuracy is not None,
            "--max-drop": self.max_drop is not None,
            "--min": bool(self.minima),
            "--max": bool(self.maxima),
        }
        return tuple(flag for flag, is_given in given.items() if is_given)

    def limits(self, qualities: Sequence[Metric], dense: Measurement) -> QualityLimits:
        """Return what the options ask for.

        Args:
            qualities: those of the study, the leading one first.
            dense: what was measured of the dense network.

        Raises:
            UsageError: if an option cannot be read, names what is no quality of the study, or limits one twice.
        """
        found: list[tuple[Metric, float]] = []
        if self.min_accuracy is not None:
            found.append(_least_accuracy(self.min_accuracy, qualities))
        if self.max_drop is not None:
            found.append((qualities[0], _after_drop(self.max_drop, qualities[0], dense)))
        found += [_limit("--min", text, qualities) for text in self.minima]
        found += [_limit("--max", text, qualities) for text in self.maxima]
        twice = [metric.name for place, (metric, _) in enumerate(found) if metric in dict(found[:place])]
        if twice:
            raise UsageError(f"{twice[0]} was limited twice; give one limit for each metric")
        return QualityLimits(dict(found))


def quality_options(command: _F) -> _F:
    """Add the options that say how good a picked network must be."""
    lines = (
        ("--min-accuracy", None, "P%", "At least this validation accuracy, e.g. 97%."),
        (
            "--min",
            "minima",
            "NAME=VALUE",
            "The worst validation value that will do of any quality of the study, e.g. miou=60%; of one where smaller "
            "is better, the largest. May be given again for another one.",
        ),
        ("--max", "maxima", "NAME=VALUE", "The same of a quality where smaller is better, e.g. rmse=0.5."),
        (
            "--max-drop",
            None,
            "P%|V",
            "At most this much worse than the dense network: points of accuracy or another percentage, or the unit of "
            "the metric that leads.",
        ),
    )
    for flag, name, metavar, words in reversed(lines):
        names = (flag, name) if name else (flag,)
        command = option(*names, heading=Heading.CHOICE, multiple=bool(name), metavar=metavar, help=words)(command)
    return command


def _least_accuracy(text: str, qualities: Sequence[Metric]) -> tuple[Metric, float]:
    found = next((one for one in qualities if one.name == "accuracy"), None)
    if found is None:
        leading = qualities[0]
        raise UsageError(
            f"--min-accuracy {text} was given, and this study is judged by {leading.name}, not by accuracy; write "
            f"{_flag(leading)} {leading.name}=VALUE"
        )
    return found, fraction("--min-accuracy", text)


def _flag(metric: Metric) -> str:
    """Return the option whose name says what it does to a metric."""
    return "--min" if metric.goal == "max" else "--max"


def _after_drop(text: str, leading: Metric, dense: Measurement) -> float:
    """Return the worst value that is within a drop of the dense network's."""
    if leading.unit == PER_CENT:
        drop = fraction("--max-drop", text)
    else:
        drop = worst_value(leading, text, f"--max-drop {text}")
        if drop < 0:
            raise UsageError(f"--max-drop {text} is below 0; give how much worse {leading.name} may be, such as 0.05")
    return dense[leading.name] - drop if leading.goal == "max" else dense[leading.name] + drop


def _limit(flag: str, text: str, qualities: Sequence[Metric]) -> tuple[Metric, float]:
    """Return the metric and the value of ``NAME=VALUE``."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not value:
        example = f"{qualities[0].name}={'90%' if qualities[0].unit == PER_CENT else '0.5'}"
        raise UsageError(
            f"{flag} {text!r} is not of the form NAME=VALUE; write for example {_flag(qualities[0])} {example}"
        )
    known = {one.name: one for one in qualities}
    if name not in known:
        raise UsageError(f"{flag} {text}: {UnknownNameError('quality of this study', name, known)}")
    metric = known[name]
    if flag == "--max" and metric.goal == "max":
        raise UsageError(
            f"{flag} {text}: a larger {name} is better, so nothing is gained by a most; write --min {text}"
        )
    given = f"the {name} of {flag}" if metric.unit == PER_CENT else f"{flag} {text}"
    return metric, worst_value(metric, value, given)
