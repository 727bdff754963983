"""Optuna's samplers, by name.

A sampler is made afresh for each proposal from (study seed, proposal number), so a proposal is a
function of the study's seed and its stored trials alone: a killed and resumed study proposes what the
uninterrupted one would have, and no run repeats another's suggestions.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial

from autoprune.core.space import SearchSpace
from autoprune.errors import UnknownNameError
from autoprune.study.policy_params import Params, dimensions
from autoprune.study.trial_format import TrialPlace

GUIDED = "guided"
SAMPLERS = ("gp", "nsga2", "random", "tpe")  # Optuna's; the guided one is ours
STARTUP_TRIALS = 10


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Return the space's dimensions as Optuna's distributions."""
    return {
        d.name: CategoricalDistribution(d.choices) if d.choices else FloatDistribution(0.0, d.high)
        for d in dimensions(space)
    }


def proposal_seed(seed: int, number: int) -> int:
    """Return a 32-bit seed for one proposal of one study."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def make_sampler(name: str, seed: int, *, has_company: bool = False) -> BaseSampler:
    """Return one of Optuna's samplers: TPE is multivariate, which models the groups together and asks in milliseconds.

    Args:
        name: one of :data:`SAMPLERS`.
        seed: of the sampler.
        has_company: whether others evaluate candidates now, which TPE then takes for bad ones, so as not to repeat
            them; the Gaussian process knows of them by itself.

    Raises:
        UnknownNameError: if the name is not in :data:`SAMPLERS`.
    """
    with warnings.catch_warnings():  # multivariate TPE and GP are marked experimental, and chosen on purpose
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match name:
            case "tpe":
                return optuna.samplers.TPESampler(
                    seed=seed, multivariate=True, n_startup_trials=STARTUP_TRIALS, constant_liar=has_company
                )
            case "gp":
                return optuna.samplers.GPSampler(
                    seed=seed, n_startup_trials=STARTUP_TRIALS, deterministic_objective=False
                )
            case "nsga2":
                return optuna.samplers.NSGAIISampler(seed=seed, population_size=20)
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)
    raise UnknownNameError("sampler", name, SAMPLERS)


class OptunaDraw:
    """One draw of parameters by one of Optuna's samplers, for a trial that is opened when it is asked for.

    Some samplers note things on the trial they sample for, as NSGA-II its generation, so the trial exists first. If the
    process dies before it is completed, nothing asks for it again.

    Args:
        study: of Optuna's.
        storage: holds the study.
        study_id: of the study in that storage.
        distributions: of every parameter.
        has_company: whether others evaluate candidates now.

    Attributes:
        place: where the trial is stored; ``None`` until a draw was made.
    """

    def __init__(
        self,
        study: Study,
        storage: BaseStorage,
        study_id: int,
        distributions: Mapping[str, BaseDistribution],
        *,
        has_company: bool = False,
    ) -> None:
        self._study, self._storage, self._study_id = study, storage, study_id
        self._distributions, self._has_company = dict(distributions), has_company
        self.place: TrialPlace | None = None

    def __call__(self, name: str, seed: int) -> Params:
        """Return a value for every parameter.

        Args:
            name: one of :data:`SAMPLERS`.
            seed: the draw is a function of it and the study's trials.

        Raises:
            UnknownNameError: if there is no such sampler.
        """
        sampler = make_sampler(name, seed, has_company=self._has_company)
        self._study.sampler = sampler  # it may note something on the trial that it is asked for
        number = self._study.ask().number
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        self.place = TrialPlace(trial_id, number)
        return sample_all(sampler, self._distributions, self._study, self._storage.get_trial(trial_id))


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
