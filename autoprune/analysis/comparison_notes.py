"""Comparisons in words: what the search was worth, which differences are noise, and whether anything was learnt at all.

The sentences are those of a report's notes; ``report.notes`` puts them in their place.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from autoprune.analysis import pareto
from autoprune.analysis.comparison import Comparison, Scored, Verdict, compare, scored, worth
from autoprune.analysis.luck import luck_of_the_best
from autoprune.core.budget import Budget
from autoprune.core.measurement import CONFIDENT, Measurement
from autoprune.core.metrics import ACCURACY, Metric
from autoprune.core.paired_scores import PairedScores
from autoprune.core.preference import PREFERRED, Preference
from autoprune.core.trial import Trial

AT_CHANCE = 2.0  # standard errors above guessing, up to which a network has learnt nothing for sure
NEAREST = 5  # trials, nearest in quality to the best, that say what can be told apart
PHRASES: Mapping[Verdict, str] = {
    "better": "better than",
    "not distinguishable": "not distinguishable from",
    "worse": "worse than",
    "unknown": "",  # each says for itself by how much
}


def worth_notes(
    trials: Sequence[Trial],
    budget: Budget,
    comparisons: Sequence[Comparison],
    quality: Metric,
    prefer: Preference = PREFERRED,
    dense: Measurement | None = None,
) -> list[str]:
    """Say in words what :func:`worth` found, and which intervals are wider than need be.

    Returns:
        nothing if no trial meets the budget; otherwise a sentence on the baselines, if there are any, and one on the
        dense network.
    """
    best = pareto.best_within(trials, budget, quality, prefer, dense)
    if best is None:
        return []
    subject, found = "the best trial", []
    if best.candidate.is_baseline and budget.limits:
        subject = f"the {best.candidate.origin.rpartition(':')[2]} baseline"
        found.append(f"the best network is {subject}: no searched policy is better within this budget")
    for rivals in ([one for one in comparisons if one.trial is not None], list(comparisons[-1:])):
        if rivals:
            found.append(f"{subject} is {_verdicts(rivals, quality)}")
    if any(one.verdict == "unknown" for one in comparisons):
        found.append(
            f"{quality.name} has no standard error here, so nobody can tell whether a difference is more than chance"
        )
    unpaired = [_name(one) for one in comparisons if not one.paired and one.verdict != "unknown"]
    if unpaired:
        against = f" against {_listed(unpaired)}" if len(unpaired) < len(comparisons) else ""
        what = "which examples were right" if quality == ACCURACY else "what each made of every example"
        found.append(f"intervals{against} are unpaired and may be too wide: {what} was not stored for all")
    return found


def _verdicts(comparisons: Sequence[Comparison], quality: Metric) -> str:
    """Return the comparisons in words, those with the same verdict together; the first interval says what it is."""
    label, parts = "95 % interval ", []
    for verdict, phrase in PHRASES.items():
        said = []
        for one in (one for one in comparisons if one.verdict == verdict):
            said.append(_unknown(one, quality) if verdict == "unknown" else _words(one, label, quality))
            label = label if verdict == "unknown" else ""
        if said:
            parts.append(_listed(said) if verdict == "unknown" else f"{phrase} {_listed(said)}")
    return ", and ".join(parts)


def _unknown(one: Comparison, quality: Metric) -> str:
    """Return ``0.0200 mm better than uniform (no standard error)``."""
    word = "worse" if one.difference < 0 else "better"
    return f"{quality.gap(abs(one.difference))} {word} than {_name(one)} (no standard error)"


def _words(one: Comparison, label: str, quality: Metric) -> str:
    """Return ``uniform by 2.31 points (95 % interval 1.22 to 3.40)``, or with a sign if that is not known."""
    low, high = one.low or 0.0, one.high or 0.0
    if one.verdict == "not distinguishable":
        signed = f"{_number(quality, low, '+')} to {_number(quality, high, '+')}"
        positive = "positive is better, " if label and quality.goal == "min" else ""
        return f"{_name(one)}: {quality.gap(one.difference, '+')} ({positive}{label}{signed})"
    ends = (low, high) if one.verdict == "better" else (-high, -low)
    interval = f"{_number(quality, ends[0])} to {_number(quality, ends[1])}"
    return f"{_name(one)} by {quality.gap(abs(one.difference))} ({label}{interval})"


def _number(quality: Metric, difference: float, sign: str = "") -> str:
    """Return a difference without its unit."""
    return quality.gap(difference, sign).split(" ")[0]


def _name(one: Comparison) -> str:
    return "the dense network" if one.trial is None else one.baseline


def _listed(words: Sequence[str]) -> str:
    """Return words as a sentence lists them.

    >>> _listed(["a"]), _listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([", ".join(words[:-1]), *words[-1:]] if len(words) > 1 else words)


def noise_notes(
    trials: Sequence[Trial], budget: Budget, dense: Scored, quality: Metric, prefer: Preference = PREFERRED
) -> list[str]:
    """Return notes on which differences lie within the noise, and on how far choosing flatters the best.

    What cannot be told apart is the half-width of the interval between the best trial and the five that are nearest to
    it in quality, in the median. Networks far below it err on other examples, so they would say less; the front alone
    would not do either, as it leaves out those that are equal within noise. A note also
    warns where a lead may be nothing but the luck of being the best of so many.

    Args:
        trials: any trials, at least one of them completed.
        budget: absolute limits; may be empty.
        dense: the dense network, for a study of one trial.
        quality: what networks are judged by; without a standard error nothing is said of noise.
        prefer: what decides which of several networks that are as good within noise is the best.
    """
    chosen = (pareto.best_within(trials, one, quality, prefer, dense.measurement) for one in (budget, Budget()))
    best = next(filter(None, chosen), None)
    if best is None:
        return []
    (told,), others = scored([best]), [one for one in scored(trials) if one.number != best.number]
    least = _least_told_apart(told, others or [dense], quality)
    found = []
    if least:
        examples = f"with {PairedScores(told.paired).count} validation examples " if told.paired else ""
        found.append(f"{examples}differences below {quality.gap(least)} cannot be told apart")
    choices = sum(budget.admits(measurement) for _, measurement in pareto.measured(trials))
    if choices < 2:
        return [*found, f"{quality.name} is on validation examples; `autoprune pick` gives the test {quality.name}"]
    luck = luck_of_the_best(choices, least / CONFIDENT)
    by = f" by up to about {quality.gap(luck)}" if luck > 0 else ""
    better = [one for one in worth(trials, budget, dense, quality, prefer) if one.verdict == "better"]
    doubtful = [_name(one) for one in better if (one.low or 0.0) <= luck]
    less = f"; less that, it is not distinguishable from {_listed(doubtful)}" if doubtful else ""
    return [
        *found,
        f"the best of {choices} trials was chosen on these very examples, which flatters it{by}{less}; "
        f"`autoprune pick` compares on test",
    ]


def _least_told_apart(best: Scored, others: Sequence[Scored], quality: Metric) -> float:
    """Return the difference below which networks near the best cannot be told apart; 0 if that is not known."""
    middle = best.measurement[quality.name]
    near = sorted(others, key=lambda one: abs(one.measurement[quality.name] - middle))[:NEAREST]
    errors = [found.stderr for one in near if (found := compare(best, one, quality)).stderr is not None]
    return CONFIDENT * statistics.median(errors) if errors else 0.0


def chance_notes(
    dense: Measurement, quality: Metric, chance: float | None, num_classes: int | None = None
) -> list[str]:
    """Say so if the dense network is no better than guessing, as far as the validation examples can tell.

    Args:
        dense: what was measured of it on validation.
        quality: what networks are judged by.
        chance: its value that guessing gives; ``None`` if that is not known.
        num_classes: of the data, for words; ``None`` if it has none.

    >>> chance_notes(Measurement({"accuracy": 0.9}, {"accuracy": 0.04}), ACCURACY, 0.1)
    []
    """
    if chance is None or quality.name not in dense.values:
        return []
    value, error = dense[quality.name], dense.error(quality.name)
    if quality.gain(value, chance) > AT_CHANCE * error:
        return []
    name = "" if quality == ACCURACY else f"{quality.name} "
    among = f" among {num_classes} classes" if num_classes and quality == ACCURACY else ""
    plus_minus = f" ± {quality.with_unit(error)}" if quality.name in dense.stderr else ""
    return [
        f"the dense network is at chance: {name}{quality.with_unit(value)}{plus_minus} on "
        f"validation, where guessing{among} gives {quality.with_unit(chance)}. Comparisons mean "
        f"nothing: train it longer, give trained weights, or check the {'labels' if among else 'data'}"
    ]
