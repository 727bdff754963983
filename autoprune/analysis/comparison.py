"""What the search was worth: the best network against the baselines and the dense one, each with its 95 % interval.

All networks are scored on the same validation images. Where it is stored which of them each got right, networks are
compared image by image (:func:`paired_difference`); otherwise by their accuracies, which is less sharp,
and the notes say so. ``report.notes`` puts the sentences made here in their place.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from autoprune.analysis import pareto
from autoprune.core.budget import Budget
from autoprune.core.json_values import JsonObject
from autoprune.core.measurement import Measurement
from autoprune.core.paired_scores import PairedScores, paired_difference
from autoprune.core.trial import Completed, Trial

DENSE = "dense"
CONFIDENT = 1.96  # standard errors on each side of a 95 % interval
AT_CHANCE = 2.0  # standard errors above guessing, up to which a network has learnt nothing for sure
NEAREST = 5  # trials, nearest in accuracy to the best, that say what can be told apart
Verdict = Literal["better", "not distinguishable", "worse"]
PHRASES: Mapping[Verdict, str] = {
    "better": "better than",
    "not distinguishable": "not distinguishable from",
    "worse": "worse than",
}


def baselines_for(trials: Sequence[Trial], budget: Budget) -> list[Trial]:
    """Return the completed baselines made for a budget or, if none was, those that meet it all the same."""
    found = [(trial, m) for trial, m in pareto.measured(trials) if trial.candidate.is_baseline]
    made_for_it = [trial for trial, _ in found if trial.candidate.budget == budget]
    return made_for_it or [trial for trial, m in found if budget.admits(m)]


@dataclass(frozen=True)
class Scored:
    """A network's accuracy on validation.

    Attributes:
        name: ``"uniform"``, ``"inner"`` …, or ``"dense"``.
        number: its trial's number, ``None`` for the dense network.
        measurement: has the accuracy, perhaps with its standard error.
        correct: which images were right, the text of :class:`PairedScores`; empty if not stored.
    """

    name: str
    number: int | None
    measurement: Measurement
    correct: str = ""


@dataclass(frozen=True)
class Comparison:
    """By how much the best network is more accurate than another one.

    Attributes:
        baseline: the other one: ``"uniform"``, ``"inner"`` …, or ``"dense"``.
        trial: the other one's number, ``None`` for the dense network.
        difference: accuracy of the best − accuracy of the other, a fraction.
        stderr: standard error of the difference.
        paired: whether they were compared image by image.
    """

    baseline: str
    trial: int | None
    difference: float
    stderr: float
    paired: bool

    @property
    def low(self) -> float:
        """Return the lower end of the 95 % interval."""
        return self.difference - CONFIDENT * self.stderr

    @property
    def high(self) -> float:
        """Return the upper end of the 95 % interval."""
        return self.difference + CONFIDENT * self.stderr

    @property
    def verdict(self) -> Verdict:
        """Return what the best network is, seen from the other one: zero must lie outside the interval to tell."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "not distinguishable"

    def to_json(self) -> JsonObject:
        """Return plain types for JSON; differences are fractions."""
        return {
            "baseline": self.baseline,
            "trial": self.trial,
            "difference": self.difference,
            "stderr": self.stderr,
            "low": self.low,
            "high": self.high,
            "paired": self.paired,
            "verdict": self.verdict,
        }


def compare(one: Scored, other: Scored) -> Comparison:
    """Compare two networks on validation.

    Unpaired, the standard error is √(se₁² + se₂²); the true one is mostly smaller, as both saw the same images.
    """
    if one.correct and other.correct:
        gain, error = paired_difference(PairedScores(one.correct), PairedScores(other.correct))
        return Comparison(other.name, other.number, gain, error, paired=True)
    gain = one.measurement["accuracy"] - other.measurement["accuracy"]
    error = math.hypot(one.measurement.error("accuracy"), other.measurement.error("accuracy"))
    return Comparison(other.name, other.number, gain, error, paired=False)


def scored(trials: Sequence[Trial]) -> list[Scored]:
    """Return the completed trials as :func:`compare` takes them."""
    return [
        Scored(one.candidate.origin.rpartition(":")[2], one.number, one.outcome.measurement, one.outcome.correct)
        for one in trials
        if isinstance(one.outcome, Completed)
    ]


def worth(trials: Sequence[Trial], budget: Budget, dense: Scored) -> tuple[Comparison, ...]:
    """Return how the best network within a budget compares with the baselines, in order, and at last the dense one.

    Baselines that miss the budget, as one of latency may turn out, are left out; without a budget there are none. Of
    several of one name, from several budgets, the most accurate counts. Empty if no trial meets the budget.
    """
    best = pareto.best_within(trials, budget)
    if best is None:
        return ()
    (winner,) = scored([best])
    rivals: dict[str, Scored] = {}
    for rival in scored(baselines_for(trials, budget)) if budget.limits else []:
        known = rivals.get(rival.name)
        is_better = known is None or rival.measurement["accuracy"] > known.measurement["accuracy"]
        if rival.number != best.number and budget.admits(rival.measurement) and is_better:
            rivals[rival.name] = rival
    return tuple(compare(winner, rival) for rival in (*rivals.values(), dense))


def worth_notes(trials: Sequence[Trial], budget: Budget, comparisons: Sequence[Comparison]) -> list[str]:
    """Say in words what :func:`worth` found, and which intervals are wider than need be.

    Returns:
        nothing if no trial meets the budget; otherwise a sentence on the baselines, if there are any, and one on the
        dense network.
    """
    best = pareto.best_within(trials, budget)
    if best is None:
        return []
    subject, found = "the best trial", []
    if best.candidate.is_baseline and budget.limits:
        subject = f"the {best.candidate.origin.rpartition(':')[2]} baseline"
        found.append(f"the best network is {subject}: no searched policy is better within this budget")
    for rivals in ([one for one in comparisons if one.trial is not None], list(comparisons[-1:])):
        if rivals:
            found.append(f"{subject} is {_verdicts(rivals)}")
    unpaired = [_name(one) for one in comparisons if not one.paired]
    if unpaired:
        against = f" against {_listed(unpaired)}" if len(unpaired) < len(comparisons) else ""
        found.append(
            f"intervals{against} are unpaired and may be too wide: which images were right was not stored for all"
        )
    return found


def _verdicts(comparisons: Sequence[Comparison]) -> str:
    """Return the comparisons in words, those with the same verdict together; the first interval says what it is."""
    label, parts = "95 % interval ", []
    for verdict, phrase in PHRASES.items():
        said = []
        for one in (one for one in comparisons if one.verdict == verdict):
            said.append(_words(one, label))
            label = ""
        if said:
            parts.append(f"{phrase} {_listed(said)}")
    return ", and ".join(parts)


def _words(one: Comparison, label: str) -> str:
    """Return ``uniform by 2.31 points (95 % interval 1.22 to 3.40)``, or with a sign if that is not known."""
    low, middle, high = (100 * value for value in (one.low, one.difference, one.high))
    if one.verdict == "not distinguishable":
        return f"{_name(one)}: {middle:+.2f} points ({label}{low:+.2f} to {high:+.2f})"
    ends = (low, high) if one.verdict == "better" else (-high, -low)
    return f"{_name(one)} by {abs(middle):.2f} points ({label}{ends[0]:.2f} to {ends[1]:.2f})"


def _name(one: Comparison) -> str:
    return "the dense network" if one.trial is None else one.baseline


def _listed(words: Sequence[str]) -> str:
    """Return words as a sentence lists them.

    >>> _listed(["a"]), _listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([", ".join(words[:-1]), *words[-1:]] if len(words) > 1 else words)


def noise_notes(trials: Sequence[Trial], budget: Budget, dense: Scored) -> list[str]:
    """Return notes on which differences lie within the noise, and on how far choosing flatters the best.

    What cannot be told apart is the half-width of the interval between the best trial and the five that are nearest to
    it in accuracy, in the median. Networks far below it err on other images, so they would say less; the front alone
    would not do either, as it leaves out those that are equal within noise. A note also
    warns where a lead may be nothing but the luck of being the best of so many.

    Args:
        trials: any trials, at least one of them completed.
        budget: absolute limits; may be empty.
        dense: the dense network, for a study of one trial.
    """
    best = pareto.best_within(trials, budget) or pareto.best_within(trials, Budget())
    if best is None:
        return []
    (told,), others = scored([best]), [one for one in scored(trials) if one.number != best.number]
    middle = told.measurement["accuracy"]
    near = sorted(others or [dense], key=lambda one: abs(one.measurement["accuracy"] - middle))[:NEAREST]
    least = CONFIDENT * statistics.median(compare(told, one).stderr for one in near)
    found = []
    if least > 0:
        images = f"with {PairedScores(told.correct).count} validation images " if told.correct else ""
        found.append(f"{images}differences below {100 * least:.2f} points cannot be told apart")
    choices = sum(budget.admits(measurement) for _, measurement in pareto.measured(trials))
    if choices < 2:
        return [*found, "accuracy is on validation images; `autoprune pick` gives the test accuracy"]
    luck = luck_of_the_best(choices, least / CONFIDENT)
    by = f" by up to about {100 * luck:.2f} points" if luck > 0 else ""
    doubtful = [_name(one) for one in worth(trials, budget, dense) if one.verdict == "better" and one.low <= luck]
    less = f"; less that, it is not distinguishable from {_listed(doubtful)}" if doubtful else ""
    return [
        *found,
        f"the best of {choices} trials was chosen on these very images, which flatters it{by}{less}; "
        f"`autoprune pick` compares on test",
    ]


def luck_of_the_best(choices: int, stderr: float) -> float:
    """Return by how much the best of several equally good networks comes out above their mean by chance alone.

    A network's own noise is the standard error of a difference over √2; the largest of k normal values lies about
    Φ⁻¹((k − 3/8) / (k + 1/4)) standard deviations above their mean.

    Args:
        choices: how many there are, k ≥ 1.
        stderr: of the difference between two of them.

    Source: Blom 1958, "Statistical Estimates and Transformed Beta-Variables", for the expected largest value.

    >>> round(luck_of_the_best(100, 0.005), 4), luck_of_the_best(1, 0.005)
    (0.0088, 0.0)
    """
    return statistics.NormalDist().inv_cdf((choices - 3 / 8) / (choices + 1 / 4)) * stderr / math.sqrt(2)


def chance_notes(dense: Measurement, num_classes: int | None) -> list[str]:
    """Say so if the dense network is no better than guessing, as far as the validation images can tell.

    Args:
        dense: what was measured of it on validation.
        num_classes: of the data; ``None`` in studies of versions that did not store it.

    >>> chance_notes(Measurement({"accuracy": 0.9}, {"accuracy": 0.04}), 10)
    []
    """
    if not num_classes or dense["accuracy"] > 1 / num_classes + AT_CHANCE * dense.error("accuracy"):
        return []
    return [
        f"the dense network is at chance: {100 * dense['accuracy']:.2f} % ± {100 * dense.error('accuracy'):.2f} % on "
        f"validation, where guessing among {num_classes} classes gives {100 / num_classes:.2f} %. Comparisons mean "
        f"nothing: train it longer, give trained weights, or check the labels"
    ]
