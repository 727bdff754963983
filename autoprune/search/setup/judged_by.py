"""What a study is judged by: the metrics that its data brings, written into its spec before its first trial."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.core.builtin_names import IMPORTANCES
from autoprune.core.metrics import ACCURACY, METRICS, Metric, register
from autoprune.errors import StudyMismatchError, UsageError
from autoprune.pruning.importance import has_mark
from autoprune.study.spec import QUALITY, StudySpec
from autoprune.study.spec_sections import SpaceSpec
from autoprune.tasks.task import DataTask

_LOSS = "loss"


def judged_by(spec: StudySpec, task: DataTask) -> StudySpec:
    """Return the spec with the metrics of its data, objectives that are among them, and criteria that it allows.

    The objectives that nobody asked for trade the leading metric; ``quality`` stands for it.

    Args:
        spec: of a new study.
        task: the data.

    Raises:
        UsageError: if the spec asks for other metrics, or for objectives that are not measured.
    """
    metrics, data = task.metrics, task.name
    register(metrics)
    names = [one.name for one in metrics]
    if spec.metrics and [one.name for one in spec.qualities] != names:
        raise UsageError(
            f"metrics are {', '.join(spec.metrics)} in the spec, and {data} is judged by {', '.join(names)}; leave "
            "metrics out, or give data that is judged by them"
        )
    is_default = spec.objectives == StudySpec.model_fields["objectives"].default
    lead = {QUALITY} | ({ACCURACY.name} if is_default and ACCURACY.name not in names else set())
    objectives = tuple(dict.fromkeys(names[0] if name in lead else name for name in spec.objectives))
    strange = [
        name for name in objectives if name not in (*names, _LOSS) and not (name in METRICS and METRICS[name].is_cost)
    ]
    if strange:
        raise UsageError(
            f"objectives name {', '.join(strange)}, and {data} is judged by {', '.join(names)}; name one of these, "
            f"{_LOSS}, or {QUALITY} for the first"
        )
    space = spec.space
    if not (task.has_loss and task.has_batches) and space.importances == SpaceSpec().importances:
        space = space.model_copy(update={"importances": tuple(set_aside(space.importances))})
    _check_criteria(space.importances, task)
    own = () if tuple(metrics) == (ACCURACY,) else tuple(one.text for one in metrics)
    return spec.model_copy(update={"metrics": own, "objectives": objectives, "space": space})


def _check_criteria(importances: Sequence[str], task: DataTask) -> None:
    """Raise if criteria need what a task has not, before its network is trained.

    Raises:
        UsageError: naming them.
    """
    if not task.has_batches:
        lacking, what = [name for name in importances if name not in set_aside(importances)], "data"
    else:
        lacking, what = [name for name in importances if has_mark(IMPORTANCES.get(name), "uses_gradients")], "a loss"
    if lacking and not (task.has_batches and task.has_loss):
        raise UsageError(
            f"the importance criteria {', '.join(lacking)} need {what}, and {task.name} has none of its own; give it, "
            "or choose criteria that read the weights alone: --importances fpgm,l2"
        )


def set_aside(importances: Sequence[str]) -> list[str]:
    """Return the criteria that need neither batches nor a loss.

    >>> set_aside(("fisher", "l2"))
    ['l2']
    """
    criteria = {name: IMPORTANCES.get(name) for name in importances}
    return [
        name for name, one in criteria.items() if not (has_mark(one, "uses_data") or has_mark(one, "uses_gradients"))
    ]


def check_judged_by(spec: StudySpec, metrics: Sequence[Metric], data: str) -> None:
    """Raise if data is judged by other metrics than the study that it is to go on with.

    Raises:
        StudyMismatchError: naming both.
    """
    stored, given = [one.text for one in spec.qualities], [one.text for one in metrics]
    if stored != given:
        raise StudyMismatchError(
            f"the study is judged by {', '.join(stored)}, and {data} by {', '.join(given)} now; give the metrics "
            "that it began with, or begin a new study in another folder"
        )
