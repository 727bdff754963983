"""Predict latency from how much there is to do, so that proposals can be brought to a latency limit before they exist.

A network's time is taken as a sum: so much per operation, per multiply–accumulate, per output, and per position whose
channels are no multiple of what kernels take together, of those that are still there. Unlike a line through MFLOPs,
this knows that a block dropped saves more than the same MFLOPs taken out of widths, and that odd widths can cost more
than they save. What each is worth is learnt from the networks timed when the study began (:class:`LatencyProbes`) and
from its trials, anew for every proposal. The verdict on a limit is still the measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from autoprune.core.arrays import Floats, Ints
from autoprune.core.budget import Budget, Limit
from autoprune.core.counts import ChannelCounts
from autoprune.core.measurement import Measurement
from autoprune.core.space import SearchSpace
from autoprune.core.trial import Trial, completed_measurement
from autoprune.search.proposals.budget_projection import Cost, Projector

AIM = 0.97  # share of a latency limit that predictions may use, so that noise alone puts few candidates over it
RIDGE = 0.1  # pull of the default shares: one that is off by half of the dense time weighs like an error of 5 %
FLOOR = (
    0.1  # of the dense time: an error counts relative to the latency or this, since blocks that short are timed badly
)
LATEST_TRIALS = 100  # the model is fitted on these, and on all probes
CORRECTED_BY, SIMILAR = 5, 0.2  # the latest trials predicted within 20 % of the limit say how far off the model is


class WorkCost(Cost, Protocol):
    """Closed-form costs, and what takes time."""

    def work(self, kept: ChannelCounts) -> Floats:
        """Return how much there is to do, shape ``(num_numbers,)``, none negative."""
        ...  # pragma: no cover

    def work_many(self, names: Sequence[str], counts: Ints) -> Floats:
        """Return the same of many policies, shape ``(n, num_numbers)``."""
        ...  # pragma: no cover


@dataclass(frozen=True)
class Timed:
    """A network that was timed.

    Attributes:
        kept: what it keeps; what is missing is whole.
        latency_ms: measured.
    """

    kept: ChannelCounts
    latency_ms: float


@dataclass(frozen=True)
class LatencyProbes:
    """The networks that were timed before the search.

    Attributes:
        cost: closed-form costs and work over the space.
        timed: at least one; the first is the dense network.
    """

    cost: WorkCost
    timed: tuple[Timed, ...]

    @property
    def error(self) -> float:
        """Return the leave-one-out error of a model fitted on the probes alone."""
        return leave_one_out_error(*self._samples(self.timed))

    def model(self, further: Sequence[Timed] = ()) -> LatencyModel:
        """Return a model fitted on all probes and further networks."""
        return LatencyModel.fit(*self._samples((*self.timed, *further)))

    def _samples(self, timed: Sequence[Timed]) -> tuple[Floats, Floats]:
        return np.array([self.cost.work(one.kept) for one in timed]), np.array([one.latency_ms for one in timed])


@dataclass(frozen=True)
class LatencyModel:
    """Milliseconds as a weighted sum of work; more work never takes less time, but more channels can be less work.

    Attributes:
        coefficients: shape ``(num_numbers,)``, ms per unit of work, none negative.
    """

    coefficients: Floats

    @classmethod
    def fit(cls, work: Floats, latency_ms: Floats) -> LatencyModel:
        """Return the non-negative coefficients of least squared relative error, drawn gently to equal shares.

        What the dense network has none of is drawn to nothing.

        Args:
            work: shape ``(num_networks, num_numbers)``, the dense network first.
            latency_ms: shape ``(num_networks,)``, all > 0.

        Source: Lawson & Hanson 1974, "Solving Least Squares Problems", chapter 23 (non-negative least squares).

        >>> work = np.array([[10.0, 4.0], [5.0, 4.0], [10.0, 1.0], [2.0, 1.0]])
        >>> model = LatencyModel.fit(work, work @ [0.1, 0.25])
        >>> model.predict(np.array([4.0, 4.0])).round(1).item()
        1.4
        """
        from scipy.optimize import nnls  # loading it takes a while, and most studies limit no latency

        counted = (work[0] > 0).astype(np.float64)
        most = np.where(work[0] > 0, work[0], work.max(axis=0))  # what the dense network has none of: the most of any
        units: Floats = np.where(most > 0, most, 1.0) / latency_ms[0]  # coefficients are shares of the dense time
        scale = np.maximum(latency_ms, FLOOR * latency_ms[0])
        default = counted / max(1.0, float(counted.sum()))
        shares, _ = nnls(
            np.vstack([work / units / scale[:, None], RIDGE * np.eye(len(counted))]),
            np.concatenate([latency_ms / scale, RIDGE * default]),
        )
        return cls(shares / units)

    def predict(self, work: Floats) -> Floats:
        """Return milliseconds, shape ``(...)``, for work of shape ``(..., num_numbers)``."""
        return np.asarray(work @ self.coefficients)

    def scaled(self, factor: float) -> LatencyModel:
        """Return a model that predicts ``factor`` times as much."""
        return LatencyModel(self.coefficients * factor)


def leave_one_out_error(work: Floats, latency_ms: Floats) -> float:
    """Return the root mean square relative error on each network but the dense one, predicted from all others.

    Errors are relative to the latency, or to a tenth of the dense one where that is more.

    Args: as for :meth:`LatencyModel.fit`, at least two networks.
    """
    errors, scale = [], np.maximum(latency_ms, FLOOR * latency_ms[0])
    for place in range(1, len(latency_ms)):
        model = LatencyModel.fit(np.delete(work, place, 0), np.delete(latency_ms, place))
        errors.append(float(model.predict(work[place]) - latency_ms[place]) / float(scale[place]))
    return float(np.sqrt(np.mean(np.square(errors))))


@dataclass(frozen=True)
class PredictedCost:
    """Closed-form costs with a predicted ``latency_ms``.

    Attributes:
        cost: closed-form costs and work.
        model: what work takes.
    """

    cost: WorkCost
    model: LatencyModel

    def measure(self, kept: ChannelCounts) -> Measurement:
        """Return the closed-form costs and the predicted latency."""
        predicted = float(self.model.predict(self.cost.work(kept)))
        return self.cost.measure(kept).merged(Measurement({"latency_ms": predicted}))

    def measure_many(self, names: Sequence[str], counts: Ints) -> dict[str, Floats]:
        """Return the same of many policies, metric → shape ``(n,)``."""
        predicted = self.model.predict(self.cost.work_many(names, counts))
        return {**self.cost.measure_many(names, counts), "latency_ms": predicted}


def latency_projector(space: SearchSpace, budget: Budget, probes: LatencyProbes, trials: Sequence[Trial]) -> Projector:
    """Return what brings policies to a budget with a latency limit, by the latency that is predicted now.

    Where even the smallest network is predicted above the limit, its own latency is the limit: the model may be wrong.

    Args:
        space: what may be proposed.
        budget: absolute limits, ``latency_ms`` among them.
        probes: timed when the study began.
        trials: of the study so far; the completed ones teach the model.
    """
    limit = budget.limits["latency_ms"].value
    cost = PredictedCost(probes.cost, _corrected_model(space, limit, probes, trials))
    projector = Projector(space, cost, budget, predicted=frozenset({"latency_ms"}))
    aim = max(AIM * limit, projector.least("latency_ms"))
    limits = {**budget.limits, "latency_ms": Limit(aim)}
    return Projector(space, cost, Budget(limits), predicted=projector.predicted)


def assumed_projector(space: SearchSpace, budget: Budget, cost: WorkCost, rng: np.random.Generator) -> Projector:
    """Return what brings policies to a budget and below the dense network's time, by shares drawn at random.

    Nothing is timed, so that proposals do not depend on how busy the machine is: which kind of work takes the time is
    drawn anew for each proposal. ``latency_ms`` stands for the share of the dense network's time, 1 for all of it.

    Args:
        space: what may be proposed.
        budget: absolute limits, none of them on latency.
        cost: closed-form costs and work over the space.
        rng: draws the shares.
    """
    whole = cost.work(space.full)
    counted = whole > 0
    shares = rng.dirichlet(np.ones(int(counted.sum())))
    coefficients = np.zeros(len(whole))
    coefficients[counted] = shares / whole[counted]
    limits = {"latency_ms": Limit(1.0), **budget.limits}
    predicted = PredictedCost(cost, LatencyModel(coefficients))
    return Projector(space, predicted, Budget(limits), predicted=frozenset({"latency_ms"}))


def _corrected_model(space: SearchSpace, limit: float, probes: LatencyProbes, trials: Sequence[Trial]) -> LatencyModel:
    """Return the model of probes and trials, scaled so that it is right near the limit."""
    measured = [(trial, m) for trial in trials if (m := completed_measurement(trial)) and "latency_ms" in m.values]
    timed = [Timed(space.counts(trial.candidate.policy), m["latency_ms"]) for trial, m in measured[-LATEST_TRIALS:]]
    model = probes.model(timed)
    predicted = [(one.latency_ms, float(model.predict(probes.cost.work(one.kept)))) for one in timed]
    ratios = [found / expected for found, expected in predicted if abs(expected / limit - 1) <= SIMILAR]
    return model.scaled(float(np.median(ratios[-CORRECTED_BY:]))) if ratios else model
