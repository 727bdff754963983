"""Optuna's samplers, by name, with every proposal put onto the budget before it becomes a trial.

A sampler is made afresh for each proposal from (study seed, proposal number), so a proposal is a
function of the study's seed and its stored trials alone: a killed and resumed study proposes what the
uninterrupted one would have, and no run repeats another's suggestions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from autoprune.core.space import SearchSpace
from autoprune.errors import UnknownNameError

Params: TypeAlias = Mapping[str, float | str]
GUIDED = "guided"
SAMPLERS = ("gp", "nsga2", "random", "tpe")  # Optuna's; the guided one is ours
STARTUP_TRIALS = 10


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Return the space's dimensions as Optuna's distributions."""
    return {
        d.name: CategoricalDistribution(d.choices) if d.choices else FloatDistribution(0.0, d.high)
        for d in space.dimensions
    }


def proposal_seed(seed: int, number: int) -> int:
    """Return a 32-bit seed for one proposal of one study."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def make_sampler(name: str, seed: int) -> BaseSampler:
    """Return one of Optuna's samplers: TPE is multivariate, which models the groups together and asks in milliseconds.

    Raises:
        UnknownNameError: if the name is not in :data:`SAMPLERS`.
    """
    with warnings.catch_warnings():  # multivariate TPE and GP are marked experimental, and chosen on purpose
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match name:
            case "tpe":
                return optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=STARTUP_TRIALS)
            case "gp":
                return optuna.samplers.GPSampler(
                    seed=seed, n_startup_trials=STARTUP_TRIALS, deterministic_objective=False
                )
            case "nsga2":
                return optuna.samplers.NSGAIISampler(seed=seed, population_size=20)
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)
    raise UnknownNameError("sampler", name, SAMPLERS)


class ProposingSampler(BaseSampler):
    """Give Optuna parameters that something else has decided.

    Args:
        space: Optuna's distributions of every parameter.
        propose: (study, trial) → a value for every parameter.
        inner: the sampler to tell about the end of a trial, if any.

    Attributes:
        decided: the values, where they do not depend on Optuna's study: the ledger then stores them in one go.
    """

    def __init__(
        self,
        space: dict[str, BaseDistribution],
        propose: Callable[[Study, FrozenTrial], Params],
        inner: BaseSampler | None = None,
        decided: Params | None = None,
    ) -> None:
        self.space, self._propose, self._inner, self.decided = space, propose, inner, decided

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the whole space: every parameter is proposed jointly."""
        return self.space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the proposal."""
        return dict(self._propose(study, trial))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Refuse: a parameter outside the proposal would be a bug."""
        raise RuntimeError(f"parameter {param_name!r} was not proposed; this is a bug in autoprune")

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Tell the inner sampler."""
        if self._inner:
            self._inner.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """Tell the inner sampler."""
        if self._inner:
            self._inner.after_trial(study, trial, state, values)


def sample_all(inner: BaseSampler, space: dict[str, BaseDistribution], study: Study, trial: FrozenTrial) -> Params:
    """Ask a sampler for every parameter at once, jointly where it can and one by one where it cannot.

    The relative sample goes first, as Optuna does it; what it leaves out is sampled independently.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        inner.infer_relative_search_space(study, trial)  # lets the sampler fill its own caches
        params = dict(inner.sample_relative(study, trial, space))
        for name, distribution in space.items():
            if name not in params:
                params[name] = inner.sample_independent(study, trial, name, distribution)
    return params
