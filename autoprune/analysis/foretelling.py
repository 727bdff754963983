"""How well a look without training foretells what trials end with, and what that look says of networks not trained yet.

A network's look is turned into a loss that is easily compared, the dense network's loss plus the rise; a straight line
through the logarithms of what was foretold and what came of it does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.analysis.early_stopping import rank_agreement
from autoprune.core.arrays import Floats
from autoprune.core.counts import ChannelCounts
from autoprune.core.json_values import JsonObject
from autoprune.core.policy import PruningPolicy
from autoprune.core.screened import Kept, ScreenedNetwork, kept_of
from autoprune.core.trial import Trial, completed_measurement

FEWEST_PAIRS = 4  # below that nobody knows how well it foretells
DOUBT = 0.1  # standard deviation of log loss until it is known
UNKNOWN_SHARE, LEAST_SHARE, MOST_SHARE = 0.5, 0.25, 0.75  # of proposals that come from the screening
FEWEST_PASSES = 4  # of compensation, that a line is drawn through
_PULLS = (1e-9, 0.1, 0.1)  # of the intercept, the slope and a dropped block to a common ratio
_LEAST_SLOPE = 0.1
_LEAST = 1e-6  # a loss below this has no logarithm to speak of


def kept_by(policy: PruningPolicy, channels: Mapping[str, int]) -> Kept:
    """Return what a policy keeps, to be compared with what screened networks keep.

    Args:
        policy: canonical.
        channels: group → channels of the dense network.
    """
    groups = {name: round(full * (1 - policy.groups[name].sparsity)) for name, full in channels.items()}
    return kept_of(ChannelCounts(groups, frozenset(policy.dropped_blocks)))


def estimated_rises(networks: Sequence[ScreenedNetwork]) -> Floats:
    """Return the rise of each network after a compensation pass, shape ``(n,)``.

    Of those that had none it is foretold from the closed form, which does not refit what reads behind a dropped block
    and so makes blocks look dearer than they are: by a line through the logarithms with a term for each dropped block,
    drawn gently to a common ratio. With fewer than four passes it is the closed form times the median ratio.
    """
    closed = np.array([one.closed_form for one in networks], dtype=np.float64)
    known = np.array([one.compensated is not None for one in networks], dtype=np.bool_)
    if not known.any():
        return closed
    found = np.array([one.compensated or 0.0 for one in networks], dtype=np.float64)
    logs, seen = np.log(np.maximum(closed, _LEAST)), np.log(np.maximum(found, _LEAST))
    if known.sum() < FEWEST_PASSES:
        estimated = closed * min(1.0, float(np.exp(np.median((seen - logs)[known]))))
    else:
        dropped = np.array([len(one.counts.dropped_blocks) for one in networks], dtype=np.float64)
        columns = np.column_stack([np.ones(len(logs)), logs - logs[known].mean(), dropped])
        inner = columns[known].T @ columns[known] + np.diag(_PULLS)
        weights = np.linalg.solve(inner, columns[known].T @ (seen - logs)[known])
        weights[1] = max(weights[1], _LEAST_SLOPE - 1)  # a higher closed form never foretells a lower rise
        estimated = np.exp(logs + columns @ weights)
    return np.where(known, found, estimated)


@dataclass(frozen=True)
class Foretelling:
    """What trials say about the looks before them.

    Attributes:
        pairs: trials whose network was looked at.
        agreement: rank correlation of the look with their final loss; 0 if there are fewer than four.
        slope: of log final loss over log foretold loss, > 0.
        offset: of that line.
        deviation: standard deviation of log loss around it.
    """

    pairs: int = 0
    agreement: float = 0.0
    slope: float = 1.0
    offset: float = 0.0
    deviation: float = DOUBT

    @property
    def is_known(self) -> bool:
        """Return whether there are trials enough to tell."""
        return self.pairs >= FEWEST_PAIRS

    @property
    def share(self) -> float:
        """Return the share of proposals that are to come from the screening, in [0.25, 0.75].

        >>> Foretelling().share, Foretelling(8, 1.0).share, Foretelling(8, -0.5).share
        (0.5, 0.75, 0.25)
        """
        if not self.is_known:
            return UNKNOWN_SHARE
        return LEAST_SHARE + (MOST_SHARE - LEAST_SHARE) * max(0.0, self.agreement)

    def log_losses(self, rises: Floats, dense_loss: float) -> Floats:
        """Return the log of the loss that each network is expected to end with.

        Args:
            rises: as :func:`estimated_rises` returns them.
            dense_loss: of the dense network on validation.
        """
        return np.asarray(self.offset + self.slope * log_foretold(rises, dense_loss))

    def to_json(self) -> JsonObject:
        """Return plain types for JSON; the agreement is ``None`` where it is not known."""
        return {"pairs": self.pairs, "rank_correlation": self.agreement if self.is_known else None}


def log_foretold(rises: Floats, dense_loss: float) -> Floats:
    """Return the logarithm of the dense loss plus the rise; of the rise alone where losses may be negative."""
    return np.asarray(np.log(np.maximum(rises + max(0.0, dense_loss), _LEAST)))


def foretelling(
    networks: Sequence[ScreenedNetwork], trials: Sequence[Trial], channels: Mapping[str, int], dense_loss: float
) -> Foretelling:
    """Return how well the looks foretold the final losses of the trials so far.

    Args:
        networks: that were looked at.
        trials: all finished ones; those that were picked without any fine-tune do not count.
        channels: group → channels of the dense network.
        dense_loss: of the dense network on validation.
    """
    rises = dict(zip((one.kept for one in networks), estimated_rises(networks).tolist(), strict=True))
    pairs = []
    for trial in trials:
        measured = completed_measurement(trial)
        rise = rises.get(kept_by(trial.candidate.policy, channels))
        if rise is not None and measured is not None and "loss" in measured.values and not trial.candidate.is_picked:
            pairs.append((rise, measured["loss"]))
    return _line(pairs, dense_loss)


def _line(pairs: Sequence[tuple[float, float]], dense_loss: float) -> Foretelling:
    if not pairs or min(loss for _, loss in pairs) < 0:
        return Foretelling()
    x = log_foretold(np.array([rise for rise, _ in pairs]), dense_loss)
    y = np.log(np.maximum([loss for _, loss in pairs], _LEAST))
    centred = x - x.mean()
    spread = float(centred @ centred)
    if len(pairs) < FEWEST_PAIRS or spread <= 0:
        return Foretelling(len(pairs), 0.0, 1.0, float(y.mean() - x.mean()), DOUBT)
    slope = max(0.05, float(centred @ (y - y.mean())) / spread)  # a higher rise never foretells a lower loss
    offset = float(y.mean() - slope * x.mean())
    deviation = math.sqrt(float(np.sum((y - offset - slope * x) ** 2)) / (len(pairs) - 2))
    return Foretelling(len(pairs), rank_agreement(x.tolist(), y.tolist()), slope, offset, max(deviation, 0.01))


def screened_front(networks: Sequence[ScreenedNetwork], cost: str) -> list[ScreenedNetwork]:
    """Return the networks that no cheaper one is as near the dense network as, from cheap to dear.

    Args:
        networks: that were looked at; those whose ``cost`` is not known are left out.
        cost: metric, as ``"mflops"``.
    """
    known = [
        (one.costs[cost], rise, one.number, one) for one, rise in _with_rises(networks) if cost in one.costs.values
    ]
    found, least = [], math.inf
    for _, rise, _, one in sorted(known, key=lambda each: each[:3]):
        if rise < least:
            found.append(one)
            least = rise
    return found


def _with_rises(networks: Sequence[ScreenedNetwork]) -> list[tuple[ScreenedNetwork, float]]:
    return list(zip(networks, estimated_rises(networks).tolist(), strict=True))
