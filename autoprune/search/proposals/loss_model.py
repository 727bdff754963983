"""Learn from the trials how much each group's cut really costs, as a distribution to draw from.

    log loss = b + a · Σ_g (w_g + v_c(g)) · rise_g(kept_g)^p + noise

``rise_g`` is what cutting group g alone did, measured once per study; b and a are what it comes to after a fine-tune;
the weights w_g, 1 if the measured rises tell it all, and v_c, 0 if criterion c is as good as the first one, are what
the trials teach. Everything is normal, so the posterior is closed-form; the power p, which says how much of a
large rise the fine-tune undoes, and the noise are chosen by their evidence. Drawing weights and solving the knapsack
for them is Thompson sampling: proposals deviate from the knapsack where the trials leave room for doubt.

Source: Bishop 2006, "Pattern Recognition and Machine Learning", sections 3.3 and 3.5 (Bayesian linear regression and
evidence); Thompson 1933; Russo et al. 2018, "A Tutorial on Thompson Sampling", section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoprune.core.arrays import Floats, Ints

EXPONENTS = (1.0, 0.8, 0.6)
_DOUBT = 0.4  # standard deviation of a weight before any trial
_DOUBT_CRITERION = 0.2  # the same of a criterion's effect
_NOISES = (1.0, 0.5, 0.25)  # of the variance that a straight line through the trials leaves
_LEAST_NOISE = 1e-4  # variance of log loss: two candidates are never told apart better than by 1 %
_LEAST_WEIGHT = 0.33  # a group that is cut to its floor because a draw says it is free cripples the network


@dataclass(frozen=True)
class Evidence:
    """What the trials say.

    Attributes:
        rises: of each group or block as it was cut, shape ``(n, num_names)``.
        criteria: place of each group's criterion, 0 for the first one, shape ``(n, num_names)``.
        log_losses: validation, after the fine-tune, shape ``(n,)``.
        num_criteria: how many there are.
    """

    rises: Floats
    criteria: Ints
    log_losses: Floats
    num_criteria: int


@dataclass(frozen=True)
class Belief:
    """One draw of what cuts cost.

    Attributes:
        exponent: p.
        weights: w, shape ``(num_names,)``, > 0.
        criteria: v, shape ``(num_criteria,)``; the first is 0.
    """

    exponent: float
    weights: Floats
    criteria: Floats

    def penalty(self, place: int, rises: Floats) -> Floats:
        """Return what each count of one group costs, up to the common scale."""
        return np.asarray(self.weights[place] * rises**self.exponent)


def draw(evidence: Evidence, rng: np.random.Generator, boldness: float = 1.0) -> Belief:
    """Return a draw from the posterior; from the prior if there are no trials.

    Args:
        evidence: n ≥ 0 trials.
        rng: where chance comes from.
        boldness: factor on the standard deviations; 0 for the mean, the best guess.
    """
    fits = [fit for exponent in EXPONENTS for fit in _fits(evidence, exponent)]
    logs = np.array([fit.log_evidence for fit in fits])
    odds = np.exp(logs - logs.max())
    chosen = fits[int(rng.choice(len(fits), p=odds / odds.sum()))] if boldness else fits[int(np.argmax(logs))]
    values = chosen.draw(rng, boldness)
    num_names = evidence.rises.shape[1]
    weights, criteria = values[:num_names], values[num_names:-1]
    return Belief(chosen.exponent, np.maximum(weights, _LEAST_WEIGHT), np.concatenate([[0.0], criteria]))


@dataclass(frozen=True)
class _Fit:
    exponent: float
    mean: Floats
    factor: Floats
    """Lower Cholesky factor of the posterior precision."""
    log_evidence: float

    def draw(self, rng: np.random.Generator, boldness: float) -> Floats:
        noise = np.linalg.solve(self.factor.T, rng.standard_normal(len(self.mean)))
        return np.asarray(self.mean + boldness * noise)


def _fits(evidence: Evidence, exponent: float) -> list[_Fit]:
    """Return posteriors over weights, criteria's effects and the offset, for one power and each noise."""
    rises, y = evidence.rises**exponent, evidence.log_losses
    slope, offset, left = _line(rises.sum(axis=1), y)
    by_criterion = [(rises * (evidence.criteria == c)).sum(axis=1) for c in range(1, evidence.num_criteria)]
    columns = np.column_stack([slope * rises, *(slope * column for column in by_criterion), np.ones(len(y))])
    num_names, others = rises.shape[1], len(by_criterion)
    before = np.concatenate([np.ones(num_names), np.zeros(others), [offset]])
    doubt = np.concatenate([np.full(num_names, _DOUBT), np.full(others, _DOUBT_CRITERION), [1.0]])
    surprise = y - columns @ before
    products = columns.T @ columns, columns.T @ surprise, float(surprise @ surprise)
    noises = [max(share * left, _LEAST_NOISE) for share in _NOISES]
    return [_posterior(*products, len(y), before, doubt, noise, exponent) for noise in noises]


def _line(x: Floats, y: Floats) -> tuple[float, float, float]:
    """Return slope, offset and the variance left of y over x; a slope that is not positive is made so."""
    if len(y) < 3 or np.ptp(x) == 0:
        return 0.1, float(y.mean()) - 0.1 * float(x.mean()) if len(y) else 0.0, 0.05
    centred = x - x.mean()
    slope = float(centred @ (y - y.mean()) / (centred @ centred))
    slope = max(slope, 0.1 * float(y.std() / x.std()), 1e-6)  # more rise never helps: that much is known
    offset = float(y.mean()) - slope * float(x.mean())
    return slope, offset, float(((y - offset - slope * x) ** 2).mean())


def _posterior(
    gram: Floats,
    pulled: Floats,
    surprised: float,
    count: int,
    before: Floats,
    doubt: Floats,
    noise: float,
    exponent: float,
) -> _Fit:
    """Return the normal posterior (Bishop 2006, equations 3.50, 3.51) and the log evidence (3.86).

    Args:
        gram: XᵀX of the columns X.
        pulled: Xᵀ(y − X · before).
        surprised: |y − X · before|².
        count: of trials.
        before: prior means.
        doubt: prior standard deviations.
        noise: variance of the noise.
        exponent: goes into the result.
    """
    factor: Floats = np.linalg.cholesky(gram / noise + np.diag(1 / doubt**2)).astype(np.float64)
    pull = pulled / noise
    shift = np.linalg.solve(factor.T, np.linalg.solve(factor, pull))
    log_determinants = 2 * np.log(np.diag(factor)).sum() + 2 * np.log(doubt).sum() + count * np.log(noise)
    log_evidence = -0.5 * (log_determinants + surprised / noise - pull @ shift)
    return _Fit(exponent, before + shift, factor, float(log_evidence))
