"""What a study is, in types: :class:`StudySpec`, its meaning, and how two of them differ.

The defaults are the main job, ResNet-56 on the digits. The sections, one per table of a ``study.toml``, are in
``sections``; how files and options are read, and how all their faults are reported at once, is in
``spec_file``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import Field, field_validator, model_validator

from autoprune.core.builtin_names import SamplerName
from autoprune.core.metrics import ACCURACY, KNOWN_QUALITIES, METRICS, TRAIN, Metric
from autoprune.errors import UnknownNameError, UsageError
from autoprune.study.spec_base import Names, Section, check_unique, fault
from autoprune.study.spec_budget import BudgetSpec
from autoprune.study.spec_run import DiskSpec, LatencySpec, LoggingSpec, RuntimeSpec
from autoprune.study.spec_sections import (
    DataSpec,
    LoopSpec,
    ModelSpec,
    ScreeningSpec,
    SensitivitySpec,
    SpaceSpec,
    StoppingSpec,
)
from autoprune.study.spec_training import DenseSpec, FinetuneSpec, PickSpec, ScheduleSpec, SparsitySpec

NAME_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
QUALITY = "quality"  # among objectives: the first metric of the task, whatever its name is


class StudySpec(Section):
    """The whole plan of a study; ``StudySpec()`` is the main job."""

    name: str = Field(
        default="digits-resnet56", description="letters, digits, '.', '_' and '-', not beginning with '.' or '-'"
    )
    metrics: Names = Field(
        default=(),
        description="what quality is measured by, as NAME, NAME:GOAL or NAME:GOAL:UNIT, the first leads; empty: what "
        "the data is judged by, accuracy for classes",
    )
    objectives: Names = Field(
        default=("accuracy", "mflops", "latency_ms"),
        description="metrics to trade against each other: at least one quality and one cost",
    )
    trials: int = Field(default=30, ge=1, description="how many trials the study reaches in total")
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="of proposals, training and subsets")
    sampler: SamplerName = Field(
        default="auto",
        description="what proposes policies. guided: from the sensitivity and what trials teach; tpe, gp, nsga2 and "
        "random: Optuna's; auto: guided, or tpe where masks are searched",
    )
    model: ModelSpec = Field(default=ModelSpec(), description="the network")
    data: DataSpec = Field(default=DataSpec(), description="the examples")
    loop: LoopSpec = Field(default=LoopSpec(), description="your own training and judgement")
    budget: BudgetSpec = Field(default=BudgetSpec(), description="what the network may cost")
    space: SpaceSpec = Field(default=SpaceSpec(), description="what a policy may choose from")
    dense: DenseSpec = Field(default=DenseSpec(), description="training of the dense network")
    sparsity: SparsitySpec = Field(default=SparsitySpec(), description="regularisation before pruning")
    sensitivity: SensitivitySpec = Field(default=SensitivitySpec(), description="what cutting a group alone does")
    screening: ScreeningSpec = Field(default=ScreeningSpec(), description="what is looked at before the first trial")
    schedule: ScheduleSpec = Field(default=ScheduleSpec(), description="course of every candidate's training")
    finetune: FinetuneSpec = Field(default=FinetuneSpec(), description="training of every candidate")
    stopping: StoppingSpec = Field(default=StoppingSpec(), description="when a candidate is stopped early")
    pick: PickSpec = Field(default=PickSpec(), description="training of the picked network")
    latency: LatencySpec = Field(default=LatencySpec(), description="timing")
    disk: DiskSpec = Field(default=DiskSpec(), description="what is kept of the trials")
    runtime: RuntimeSpec = Field(default=RuntimeSpec(), description="device and number format")
    logging: LoggingSpec = Field(default=LoggingSpec(), description="where else each trial is logged")

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not re.fullmatch(NAME_PATTERN, name):
            raise fault("expected letters, digits, '.', '_' and '-' only, not beginning with '.' or '-'")
        return name

    @field_validator("metrics")
    @classmethod
    def _qualities(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        try:
            found = [Metric.parse(text) for text in texts]
        except UsageError as error:
            raise fault(str(error)) from error
        check_unique(tuple(one.name for one in found), may_be_empty=True)
        wrong = [one.name for one in found if one.is_cost or is_told_only(one.name)]
        if wrong:
            raise fault(f"{', '.join(wrong)} is not a quality of its own; name what the network is judged by")
        return texts

    @field_validator("objectives")
    @classmethod
    def _named_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        check_unique(names)
        return names

    @model_validator(mode="after")
    def _quality_and_cost(self) -> StudySpec:
        """Check that a quality is traded for a cost, by names that are known as far as the data is not yet."""
        own = {one.name for one in map(Metric.parse, self.metrics)}
        unknown = [name for name in self.objectives if name not in {QUALITY, *METRICS, *KNOWN_QUALITIES, *own}]
        costs = [name for name, known in METRICS.items() if known.is_cost]
        qualities = dict.fromkeys((*own, *(name for name in METRICS if name not in costs and not is_told_only(name))))
        if unknown and not self.data.may_bring_metrics:
            hint = f" If evaluate gives it, say so: --metric {unknown[0]}:max, or :min." if self.loop.evaluate else ""
            raise fault(f"{UnknownNameError('metric', unknown[0], (*qualities, *costs, QUALITY))}{hint}", "objectives")
        if {name in costs for name in self.objectives} != {True, False} or any(map(is_told_only, self.objectives)):
            raise fault(
                f"expected at least one quality ({', '.join(qualities)}, or {QUALITY} for the first of the data's own) "
                f"and one cost ({', '.join(costs)})",
                "objectives",
            )
        return self

    @property
    def quality(self) -> Metric:
        """Return the metric that the network is judged by, the first of several."""
        return self.qualities[0]

    @property
    def qualities(self) -> tuple[Metric, ...]:
        """Return the metrics of quality that the task brings, the leading one first."""
        return tuple(map(Metric.parse, self.metrics)) or (ACCURACY,)

    @model_validator(mode="after")
    def _start_is_there(self) -> StudySpec:
        """Check that the weights which candidates begin with will exist."""
        start, epochs, weights = self.schedule.start, self.dense.epochs, self.model.weights
        trained = epochs > 0 and not weights
        if start == "rewind" and not trained:
            reason = "rewind needs a dense network that is trained here: give no model.weights and some dense.epochs"
        elif start == "rewind" and self.schedule.rewind_epoch > epochs:
            reason = f"rewind needs an epoch of the dense training: expected schedule.rewind_epoch <= {epochs}"
        elif start == "scratch" and not (trained or weights):
            reason = "scratch needs initial weights, and with dense.epochs = 0 the source's own are the trained ones"
        elif start == "scratch" and self.sparsity.method != "none":
            reason = "scratch scores the initial network, so there is nothing to learn: set sparsity.method to none"
        else:
            return self
        others = ("dense.epochs", "model.weights", "schedule.rewind_epoch", "sparsity.method")
        raise fault(reason, "schedule.start", others)


def is_told_only(name: str) -> bool:
    """Return whether a metric is measured to be shown or to stop by.

    Who searched for one would search for overfitting, or for a good start.
    """
    return name.startswith(TRAIN) or name in ("recalibrated_loss", "midway_loss", "halfway_loss")


# stopping decides which trials come to their end, and changes nothing of one that does
_MEANING_FREE = frozenset({"space.max_drop", "space.seconds", "stopping.enabled", "stopping.half_way"}) | {
    *("name", "trials", "budget", "sampler", "pick", "logging", "sensitivity", "screening", "disk"),
    *("data.root", "data.workers", "runtime.threads"),
    *("latency.command", "latency.command_seconds"),  # a trial's latency means what its host is; see search.setup
}


def fingerprint(spec: StudySpec) -> dict[str, object]:
    """Return the fields that change the meaning of a trial, by dotted key, as JSON can hold them.

    What the study is called, how many trials it gets, for which budget and by whom policies are proposed, whether
    hopeless ones are stopped, the pick, loggers, which weights are kept, where data lies, and how many processes or
    threads work how long are left out: these may change while it goes on.

    >>> prints = fingerprint(StudySpec())
    >>> prints["finetune.lr"], prints["objectives"], "trials" in prints
    ('auto', ['accuracy', 'mflops', 'latency_ms'], False)
    """
    flat: dict[str, object] = {}
    for key, value in spec.model_dump(mode="json").items():
        fields = {f"{key}.{name}": inner for name, inner in value.items()} if isinstance(value, dict) else {key: value}
        if key not in _MEANING_FREE:
            flat |= {name: inner for name, inner in fields.items() if name not in _MEANING_FREE}
    return flat


# what a key that came later meant before it came, where that is not its default now
BEFORE_IT_CAME: Mapping[str, object] = {
    "latency.runtime": "torch",
    "finetune.compensation_images": 0,
    "space.depth": False,
    "stopping.half_way": "always",
}
# (section, key) → whole numbers that a stored spec may hold and a new one may not; they are read as the next one
ALLOWED_BEFORE: Mapping[tuple[str, str], tuple[int, ...]] = {("latency", "blocks"): (3, 4)}


def differences(stored: Mapping[str, object], given: Mapping[str, object]) -> list[str]:
    """Return one line for every key in which two fingerprints differ.

    A key that the stored one lacks came with a later version of autoprune. Its default is what the earlier one did, but
    for a few whose default changed with them.

    >>> differences({"finetune.lr": 0.05, "seed": 0}, {"finetune.lr": 0.1, "seed": 0, "schedule.stages": 1})
    ['finetune.lr: stored 0.05, given 0.1']
    """
    missing = object()
    before = {**fingerprint(StudySpec()), **BEFORE_IT_CAME, **stored}
    pairs = {key: (before.get(key, missing), given.get(key, missing)) for key in {**stored, **given}}
    shown = {key: ["nothing" if value is missing else repr(value) for value in pair] for key, pair in pairs.items()}
    return [f"{key}: stored {shown[key][0]}, given {shown[key][1]}" for key, (a, b) in pairs.items() if a != b]
