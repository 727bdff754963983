"""The screening of a prepared study: whether it can be done, its parts, and what looks at its networks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from autoprune.core.budget import Budget
from autoprune.core.json_values import JsonObject
from autoprune.core.screened import ScreenedNetwork
from autoprune.search.proposals.baselines import baselines
from autoprune.search.proposals.budget_projection import Projector
from autoprune.search.proposals.latency_model import LatencyProbes, PredictedCost
from autoprune.search.proposals.proposer import Proposals
from autoprune.search.screening.budget_ladder import budget_part, curve_part
from autoprune.search.screening.bulk_proposals import BulkProposals
from autoprune.search.screening.look import Looker
from autoprune.search.screening.screen_study import Screener
from autoprune.search.setup.answer_distance import AnswerDistance
from autoprune.search.setup.build_evaluator import compensator_of
from autoprune.search.setup.latency_probes import latency_probes
from autoprune.search.setup.measure_sensitivity import SensitivityProbe
from autoprune.search.setup.prepared_study import PreparedStudy
from autoprune.study.divided_work import DividedWork
from autoprune.study.optuna_sampler import GUIDED

LATENCY = "latency_ms"
MOST_COMPENSATION_IMAGES = 128  # of a look; eight times as many rank alike, measured
RECALIBRATION_IMAGES = 32  # of a first look; rank as 64 do, measured
QUALITY_FACTOR = 8  # so many times as many images are scored for the report's curve as are compared first


def can_be_screened(study: PreparedStudy, proposals: Proposals) -> bool:
    """Return whether networks are looked at before the first trial; where weights cannot be refitted, say so.

    Samplers of Optuna's propose by themselves, and masks are not looked at.
    """
    spec = study.spec
    if not spec.screening.enabled or proposals.chosen_sampler != GUIDED or study.space.mask:
        return False
    if not spec.finetune.compensation_images or spec.schedule.start != "finetune" or not study.task.has_batches:
        study.context.notify("no screening: candidates are not compensated, so a look without training says little")
        return False
    return True


def with_screening(study: PreparedStudy, proposals: Proposals, work: DividedWork) -> Proposals:
    """Return proposals that know what was looked at, and timed for it.

    Args and raises: as :func:`screened_networks`.
    """
    screened = screened_networks(study, proposals, work)
    timed = _probes(study) if LATENCY in study.spec.objectives else None
    return replace(proposals, screened=screened, timed=timed)


def screened_networks(
    study: PreparedStudy, proposals: Proposals, work: DividedWork | None = None
) -> tuple[ScreenedNetwork, ...]:
    """Return all networks that were looked at: stored, and those that this run's budget needs, looked at now.

    Args:
        study: prepared; no other worker calls this at the same time.
        proposals: of the run; their projector before any trial says what lies on the budget.
        work: by which other workers take part; ``None``: none do.

    Raises:
        StudyError: if what is stored is damaged, or cannot be written.
    """
    spec = study.spec
    is_timed = LATENCY in spec.objectives or LATENCY in proposals.budget.limits
    timed = timed_projector(study) if is_timed else None
    plain = Projector(study.space, study.cost, Budget())
    onto = proposals.projector(())
    parts = [
        curve_part(plain, timed if LATENCY in spec.objectives else None, spec.screening.networks),
        budget_part(proposals.budget, onto, spec.screening.networks),
    ]
    known = baselines(onto, proposals.scores, proposals.tolerated, proposals.sensitivity) if onto.limits else {}
    screener = Screener(
        study.folder,
        BulkProposals(
            study.space,
            proposals.sensitivity,
            spec.seed,
            study.dense["loss"],
            tuple(study.space.counts(policy) for policy in known.values()),
        ),
        partial(looker_of, study),
        timed or plain,
        study.context.notify,
        _settings(study),
        work or DividedWork(),
    )
    return screener.screen([part for part in parts if part is not None])


def timed_projector(study: PreparedStudy) -> Projector:
    """Return a projector without limits whose costs hold a predicted ``latency_ms``.

    The networks that latency is learnt from are timed now if the study has none, in the runtime that it times in.
    """
    probes = _probes(study)
    return Projector(study.space, PredictedCost(probes.cost, probes.model()), Budget(), frozenset({LATENCY}))


def _probes(study: PreparedStudy) -> LatencyProbes:
    return latency_probes(study.context, study.pruner, study.cost, study.timer, study.dense[LATENCY])


def looker_of(study: PreparedStudy) -> Looker:
    """Return what looks at networks of a study, with what it needs measured on the dense network.

    Raises:
        ValueError: if the study does not compensate; a bug in autoprune.
    """
    spec, pruner = study.spec, study.start_pruner
    compensator = compensator_of(study, _compensation_images(study))
    if compensator is None:
        raise ValueError("a study that does not compensate was to be screened; this is a bug in autoprune")
    images = min(spec.screening.images, study.task.sizes["val"])
    study.context.notify(f"looking at networks without training, on {images} validation examples each")
    probe = SensitivityProbe.of(study.context, pruner, images, RECALIBRATION_IMAGES)
    scored = min(QUALITY_FACTOR * images, study.task.sizes["val"])
    # first looks and the network that they are compared with share their recalibration; a pass has no part in it
    distance = AnswerDistance(study.context, study.start, scored) if probe.distance else None
    return Looker(pruner, probe, compensator, 0.0 if distance else probe.loss({}), scored, distance)


def _compensation_images(study: PreparedStudy) -> int:
    return min(study.spec.finetune.compensation_images, MOST_COMPENSATION_IMAGES)


def _settings(study: PreparedStudy) -> JsonObject:
    """Return what decides what is seen of a network."""
    spec, space = study.spec, study.space
    return {
        "seed": spec.seed,
        "images": spec.screening.images,
        "compensation_images": _compensation_images(study),
        "compared_with": "the dense network as it is",  # second looks; with its statistics of few examples before
        "space": {name: [choices[0], choices[-1]] for name, choices in space.cut_choices.items()},
        "criteria": dict(space.first_importances),
    }
