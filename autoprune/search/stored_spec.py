"""The spec that a study is stored with: what it fixes, and what of it a later run takes over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from autoprune.errors import AutopruneError, StudyMismatchError
from autoprune.study.accepted_toml import write_accepted
from autoprune.study.folder import StudyFolder
from autoprune.study.spec import QUALITY, StudySpec, differences, fingerprint
from autoprune.study.spec_budget import BudgetSpec
from autoprune.study.spec_run import OPEN_LAYOUTS
from autoprune.study.spec_toml import read_resolved, write_resolved

_AUTO = ("auto",)
DECIDED = (  # when a study begins, where the spec says one of these words
    ("runtime", "layout", OPEN_LAYOUTS),
    ("runtime", "precision", _AUTO),
    ("latency", "runtime", _AUTO),
    ("latency", "format", _AUTO),
    ("finetune", "lr", _AUTO),
    ("pick", "lr", _AUTO),
    ("space", "round_to", _AUTO),
    ("stopping", "half_way", _AUTO),
)
_OPEN = {f"{section}.{name}": words for section, name, words in DECIDED}
CHANGED_DEFAULTS = (
    ("space", "importances"),
    ("space", "depth"),
    ("dense", "epochs"),
    ("dense", "batch_size"),
    ("finetune", "compensation_images"),
    ("screening", "images"),
)


def with_stored_choices(spec: StudySpec, folder: StudyFolder) -> StudySpec:
    """Return the spec with what the study decided when it began, where it is left open.

    That is the precision, the layout, the latency runtime and format, the multiple of widths and the learning rates
    left to ``auto``, and what it is judged by.
    """
    if not folder.has_begun:
        return spec
    stored = read_resolved(folder.resolved)
    metrics = spec.metrics or stored.metrics
    is_open = spec.objectives == StudySpec.model_fields["objectives"].default or QUALITY in spec.objectives
    objectives = stored.objectives if is_open and metrics == stored.metrics else spec.objectives
    spec = spec.model_copy(update={"metrics": metrics, "objectives": objectives})
    for section, name, open_words in DECIDED:
        if _value(spec, section, name) in open_words:
            spec = _with_value(spec, section, name, _value(stored, section, name))
    return _with_earlier_defaults(spec, stored)


def _value(spec: StudySpec, section: str, name: str) -> object:
    return getattr(getattr(spec, section), name)


def _with_value(spec: StudySpec, section: str, name: str, value: object) -> StudySpec:
    changed = getattr(spec, section).model_copy(update={name: value})
    return spec.model_copy(update={section: changed})


def _with_earlier_defaults(spec: StudySpec, stored: StudySpec) -> StudySpec:
    """Return the spec with what a study was begun with where a default has changed since and nothing else is given."""
    plain = StudySpec()
    for section, name in CHANGED_DEFAULTS:
        if _value(spec, section, name) == _value(plain, section, name):
            spec = _with_value(spec, section, name, _value(stored, section, name))
    return spec


def stored_meaning(folder: StudyFolder) -> Mapping[str, object] | None:
    """Return the fingerprint of the spec that the folder's weights and scores were made by, if there are any."""
    if not folder.has_begun:
        return None
    stored = read_resolved(folder.resolved)
    return fingerprint(stored) | {"name": stored.name}


def check_same_meaning(stored: Mapping[str, object] | None, spec: StudySpec, folder: StudyFolder) -> None:
    """Refuse a spec that would change what the stored trials mean.

    What the spec leaves open may be decided by another worker meanwhile, and is then taken over.

    Args:
        stored: fingerprint of the study; ``None`` if it has none yet.
        spec: of this run.
        folder: the study's.

    Raises:
        StudyMismatchError: naming every value that differs.
    """
    if stored is None:
        return
    given = fingerprint(spec) | ({"name": spec.name} if "name" in stored else {})
    given = {key: stored.get(key, value) if value in _OPEN.get(key, ()) else value for key, value in given.items()}
    changed = differences(stored, given)
    if [line.partition(":")[0] for line in changed] == ["name"]:
        raise StudyMismatchError(
            f"the folder {str(folder.path)!r} holds the study {stored['name']!r}, stored under that name: give a "
            "renamed folder its name back, and copy a study by `autoprune studies cp`"
        )
    if changed:
        lines = "\n".join(f"  - {line}" for line in changed)
        raise StudyMismatchError(
            f"the study in {str(folder.path)!r} was made by another spec, so its trials would not be comparable:\n"
            f"{lines}\nrepeat the stored values, or begin a new study in another folder"
        )


@contextmanager
def remembering(
    spec: StudySpec, written: Mapping[str, object], folder: StudyFolder
) -> Iterator[Callable[[StudySpec], None]]:
    """Write down what a new study begins with, so that a kill forgets nothing; what is refused is forgotten again.

    A study that has begun keeps what it was last accepted with. Once its dense network is made, only the budget
    can still be refused. What this gives takes the spec as more of it is decided.
    """
    is_new, latest = not folder.has_begun, [spec]

    def decided(newer: StudySpec) -> None:
        latest.append(newer)
        if is_new:
            remember(newer, written, folder)

    decided(spec)
    try:
        yield decided
    except AutopruneError:
        if is_new and folder.has_begun:
            remember(latest[-1].model_copy(update={"budget": BudgetSpec()}), written, folder)
        elif is_new:
            folder.resolved.unlink()
        raise


def remember(spec: StudySpec, written: Mapping[str, object], folder: StudyFolder) -> None:
    """Write down what the study runs with, and the values of its ``study.toml`` that went into it."""
    known = {key: value for key, value in written.items() if key != "budget" or spec.budget != BudgetSpec()}
    write_accepted(folder, known)
    write_resolved(spec, folder.resolved)
