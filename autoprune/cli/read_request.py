"""From a command line to the spec of a study: the options over the study's file over the defaults."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.cli.budget_options import COSTS, budget_values
from autoprune.cli.spec_options import SPEC_OPTIONS
from autoprune.errors import SpecError, UsageError

if TYPE_CHECKING:
    from autoprune.study.spec import StudySpec

_WHOSE_STUDY = (("--model", "model", "source"), ("--weights", "model", "weights"), ("--data", "data", "source"))


@dataclass(frozen=True)
class Request:
    """The spec that a command line describes, and the study it is for.

    Attributes:
        spec: every value decided, except the ``auto`` of device, precision, layout and latency runtime.
        folder: the study's folder.
        written: values of the study's ``study.toml``.
    """

    spec: StudySpec
    folder: Path
    written: Mapping[str, object]


def layer_of(options: Mapping[str, Any], assignments: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the values given on the command line, nested as in a ``study.toml``.

    A ``--budget-…`` option replaces the whole budget of the file, not one limit of it.

    Raises:
        SpecError: if an assignment is not KEY=VALUE.
    """
    lists = {each.key for each in SPEC_OPTIONS if each.is_list}
    values: dict[str, object] = {}
    for key, value in options.items():
        if value is not None and not key.startswith("budget_"):
            dotted = key.replace("__", ".")
            _put(values, dotted, value.split(",") if dotted in lists else value)
    if limits := budget_values(options):
        values["budget"] = {cost: limits.get(cost, "none") for cost in COSTS}
    faults = []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if equals:
            _put(values, key.strip(), _toml_value(text.strip()))
        else:
            faults.append(f"--set {assignment}: expected KEY=VALUE, for example --set finetune.lr=0.02")
    if faults:
        raise SpecError("command line", faults)
    return values


def read_request(study: str | None, root: Path, values: Mapping[str, object]) -> Request:
    """Return the spec of a study and its folder: the command line over the study's file over the defaults.

    Once a study has begun, the values it began with replace the defaults and options that are not repeated; later
    edits of its ``study.toml`` count. Code that lies beside that file may be named as it is there.

    Raises:
        UnknownNameError: if there is no such study, and neither ``--model`` nor ``--data`` begins a new one.
        SpecError: listing every fault.
    """
    from autoprune.study.accepted_toml import read_accepted
    from autoprune.study.code_beside import with_code_beside
    from autoprune.study.find_study import find_study, written_for
    from autoprune.study.folder import StudyFolder
    from autoprune.study.spec_toml import Layer, parse_spec, read_study_toml

    begins = bool(values.get("model") or values.get("data"))
    path, written = find_study(study, root, allow_new=begins)
    folder = StudyFolder(path)
    file = written_for(path, root)
    beside = file.parent if file is not None else path
    layers = [Layer(str(folder.study_toml), with_code_beside(written, beside))]
    accepted = read_accepted(folder) if folder.resolved.exists() else None
    if accepted is not None:
        began = Layer(str(folder.resolved), read_study_toml(folder.resolved))
        edited = with_code_beside(_edited(accepted, written), beside)
        layers = [began, Layer(str(folder.study_toml), edited)]
    return Request(parse_spec([*layers, Layer("command line", values)]), path, written)


def check_is_main_job(values: Mapping[str, object], root: Path) -> None:
    """Refuse another network or other data for a search without a study's name, which is the main job.

    A study of that name that was begun with them, when that was allowed, goes on.

    Args:
        values: of the command line.
        root: the folder that holds the studies.

    Raises:
        UsageError: naming the option, and what to do.
    """
    from autoprune.study.find_study import DEFAULT_STUDY, find_study
    from autoprune.study.folder import StudyFolder
    from autoprune.study.spec_toml import read_study_toml

    path, written = find_study(None, root)
    begun = StudyFolder(path).resolved
    written = read_study_toml(begun) if begun.exists() else written
    for option, section, name in _WHOSE_STUDY:
        given, usual = _within(values, section, name), _within(written, section, name)
        if given is not None and given != usual:
            raise UsageError(
                f"{option} is {str(given)!r}, and no study is named, which would be the main job, {DEFAULT_STUDY}; "
                f"give a study of your own a name: autoprune search NAME {option} {given}"
            )


def _within(values: Mapping[str, object], section: str, name: str) -> object:
    found = values.get(section)
    return found.get(name) if isinstance(found, Mapping) else None


def _edited(accepted: Mapping[str, object], written: Mapping[str, object]) -> dict[str, object]:
    """Return the values of a ``study.toml`` that were edited since a run accepted them; removed ones are ignored."""
    changed: dict[str, object] = {}
    for key, value in written.items():
        before = accepted.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            inner = _edited(before, value)
            changed |= {key: inner} if inner else {}
        elif before != value:
            changed[key] = value
    return changed


def _put(values: dict[str, object], dotted: str, value: Any) -> None:
    *sections, name = dotted.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise SpecError("command line", [f"{dotted}: {section} is a value, not a section"])
        values = inner
    values[name] = value


def _toml_value(text: str) -> Any:
    """Return a TOML value; what is not TOML is a string, so that quotes may be left out."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # no TOML, a number beyond what Python reads, or nested too deeply
        return text
