"""From files and options to a :class:`StudySpec`, and back to a file.

Values come in layers, a recipe below the command line; :func:`parse_spec` merges them and reports
the faults of all layers at once, each with the place it came from. The spec that a study really
runs with is written beside its trials by :func:`write_resolved`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from autoprune.core.atomic_write import write_text
from autoprune.core.metrics import FLOP_CONVENTION, register
from autoprune.errors import SpecError, did_you_mean
from autoprune.study.spec import ALLOWED_BEFORE, BEFORE_IT_CAME, StudySpec

_SECTIONS: Mapping[str, type[BaseModel]] = {
    key: field.annotation
    for key, field in StudySpec.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}


@dataclass(frozen=True)
class Layer:
    """Values and where they came from.

    Attributes:
        source: a file's path or ``"command line"``, for messages.
        values: nested as in a ``study.toml``; ``None`` means not given.
    """

    source: str
    values: Mapping[str, object]


def merge_layers(*layers: Mapping[str, object]) -> dict[str, object]:
    """Return all layers in one; tables are merged, and a later value wins over an earlier one.

    ``None`` is no value. The layers are left as they are, and share no table with the result.

    >>> merge_layers({"finetune": {"lr": 0.1, "epochs": 2}}, {"finetune": {"lr": 0.2, "epochs": None}})
    {'finetune': {'lr': 0.2, 'epochs': 2}}
    """
    merged: dict[str, object] = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, Mapping):
                below = merged.get(key)
                merged[key] = merge_layers(below if isinstance(below, dict) else {}, value)
            elif value is not None:
                merged[key] = value
    return merged


def parse_spec(layers: Sequence[Layer]) -> StudySpec:
    """Return the spec that the layers describe; later layers win, and what none gives is a default.

    Raises:
        SpecError: with every fault of every layer: unknown keys with the nearest known one, wrong
            types, values out of range, and values that do not go together.
    """
    faults = [fault for layer in layers for fault in _misplaced(layer)]
    values = merge_layers(*(_well_placed(layer.values) for layer in layers))
    spec, wrong = _validate(values, layers)
    faults += wrong
    if spec is None or faults:
        sources = [layer.source for layer in layers if layer.values]
        raise SpecError(", ".join(dict.fromkeys(sources)), dict.fromkeys(faults))
    return spec


def _misplaced(layer: Layer) -> list[str]:
    """Return the faults of a layer's shape: unknown keys, and values where a table belongs."""
    faults = []
    for key, value in layer.values.items():
        if key not in StudySpec.model_fields:
            faults.append(f"{key}: unknown key in {layer.source}{_nearest(key, StudySpec)}")
        elif key in _SECTIONS and isinstance(value, Mapping):
            unknown = [inner for inner in value if inner not in _SECTIONS[key].model_fields]
            faults += [
                f"{key}.{inner}: unknown key in {layer.source}{_nearest(inner, _SECTIONS[key])}" for inner in unknown
            ]
        elif key in _SECTIONS and value is not None:
            faults.append(f"{key}: given {_show(value)} in {layer.source}; expected a table, [{key}]")
    return faults


def _well_placed(values: Mapping[str, object]) -> dict[str, object]:
    """Return what is left of a layer without the values that :func:`_misplaced` reports."""
    top = {key: value for key, value in values.items() if key in StudySpec.model_fields and key not in _SECTIONS}
    tables = {
        key: {name: table[name] for name in section.model_fields if name in table}
        for key, section in _SECTIONS.items()
        if isinstance(table := values.get(key), Mapping)
    }
    return top | tables


def _nearest(key: str, section: type[BaseModel]) -> str:
    """Return what the writer of an unknown key may have meant."""
    homes = [f"[{name}]" for name, other in _SECTIONS.items() if key in other.model_fields]
    if homes:
        return f"; it belongs in {' or '.join(homes)}"
    if key in StudySpec.model_fields:
        return "; it belongs at the top, before the first [table]"
    return did_you_mean(key, section.model_fields) or f"; known: {', '.join(section.model_fields)}"


def _validate(values: dict[str, object], layers: Sequence[Layer]) -> tuple[StudySpec | None, list[str]]:
    """Validate in rounds, putting defaults where the last round found faults.

    Pydantic checks what concerns several fields only once each field is right by itself; a second
    round without the faulty values finds those faults too. A fault between fields of which one was
    faulty already is only its echo and is not reported.
    """
    faults: list[str] = []
    blamed: set[str] = set()
    while True:
        try:
            return StudySpec.model_validate(values), faults
        except ValidationError as error:
            found = [_Fault.of(dict(details)) for details in error.errors(include_url=False)]
        faults += [fault.line(values, layers) for fault in found if not blamed & {fault.key, *fault.because}]
        fresh = {key for fault in found for key in (fault.key, *fault.because)} - blamed
        if not fresh:
            return None, faults
        blamed |= fresh
        values = _without(values, fresh)


@dataclass(frozen=True)
class _Fault:
    """One fault of a value: its dotted key, the other keys involved, and the reason."""

    key: str
    because: tuple[str, ...]
    reason: str

    @classmethod
    def of(cls, details: Mapping[str, Any]) -> _Fault:
        """Return the fault in one of Pydantic's error dictionaries."""
        path = [part for part in details["loc"] if isinstance(part, str)]
        context = details.get("ctx", {})
        if details["type"] != "fault":
            return cls(".".join(path), (), f"expected {_expected(_field(path), details['input'])}")
        key = ".".join([*path, context["key"]] if context["key"] else path)
        return cls(key, tuple(".".join([*path, other]) for other in context["because"]), context["reason"])

    def line(self, values: Mapping[str, object], layers: Sequence[Layer]) -> str:
        """Return the fault in words, with the value and the last layer that gave it."""
        sources = [layer.source for layer in layers if _value(layer.values, self.key) is not None]
        return (
            f"{self.key}: given {_show(_value(values, self.key))} in {(sources or ['the defaults'])[-1]}; {self.reason}"
        )


def _field(path: Sequence[str]) -> FieldInfo:
    section: type[BaseModel] = _SECTIONS[path[0]] if len(path) > 1 else StudySpec
    return section.model_fields[path[-1]]


def _value(values: Mapping[str, object], key: str) -> Any:
    """Return the value at a dotted key, or ``None``."""
    found: Any = values
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _without(values: Mapping[str, object], keys: Iterable[str]) -> dict[str, object]:
    """Return a copy without the given dotted keys."""
    left = merge_layers(values)
    for key in keys:
        *section, name = key.split(".")
        table = left.get(section[0]) if section else left
        if isinstance(table, dict):
            table.pop(name, None)
    return left


_TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def _expected(field: FieldInfo, given: object) -> str:
    """Return in words what a field accepts, from its type and its bounds."""
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    if choices:
        near = did_you_mean(given, choices) if isinstance(given, str) and isinstance(choices[0], str) else ""
        return f"one of {', '.join(map(str, choices))}{near}"
    what = _TYPES.get(field.annotation, "a list of names")  # type: ignore[arg-type]
    bounds = [
        f"{sign} {getattr(part, name)}"
        for part in field.metadata
        for name, sign in _BOUNDS.items()
        if hasattr(part, name)
    ]
    return f"{what} {' and '.join(bounds)}" if bounds else what


def _show(value: object) -> str:
    """Return a value as a message quotes it, shortened."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def read_study_toml(path: Path) -> dict[str, object]:
    """Return the values of a TOML file, unchecked.

    Raises:
        SpecError: if the file is missing, cannot be read, is not UTF-8, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        fault = "there is no such file; write one, or leave it out to take the defaults"
    except IsADirectoryError:
        fault = "this is a folder; expected a file, such as the study.toml in it"
    except OSError as error:
        fault = f"the file cannot be read: {error.strerror or error}"
    except UnicodeDecodeError as error:
        fault = f"byte {error.start} is not UTF-8; save the file as UTF-8"
    except RecursionError:
        fault = "this is nested too deeply; expected tables of values"
    except ValueError as error:  # TOMLDecodeError, or a whole number beyond what Python reads
        fault = f"this is not TOML: {error}"
    raise SpecError(str(path), [fault])


_HEADER = f"""\
# Written by autoprune: the spec this study really runs with. Do not edit; change study.toml or the options.
# Costs are counted as in the pruning papers: {FLOP_CONVENTION}.

"""


def write_resolved(spec: StudySpec, path: Path) -> None:
    """Write every field of a spec as TOML, in one step: a reader sees the old file or the new one, never half of it.

    Raises:
        StudyError: if the file cannot be written.
    """
    write_text(path, _HEADER + tomli_w.dumps(spec.model_dump(exclude_none=True)))


def read_resolved(path: Path) -> StudySpec:
    """Return the spec that :func:`write_resolved` wrote, and register the metrics that its study is judged by.

    Raises:
        SpecError: if the file is missing, damaged, or of a version with other fields.
        UsageError: if a metric has the name of another one that was met before in this process.
    """
    spec = read_spec(path)
    register(spec.qualities)
    return spec


def read_spec(path: Path) -> StudySpec:
    """Return the spec that :func:`write_resolved` wrote, this version's or an earlier one's.

    An earlier one's lacks what came later, which is then as it was before it came (``spec.BEFORE_IT_CAME``). What is no
    longer allowed in it is raised to the least that is (``spec.ALLOWED_BEFORE``).

    Raises:
        SpecError: if the file is missing, damaged, or of a version with other fields.
    """
    earlier: dict[str, dict[str, object]] = {}
    for key, value in BEFORE_IT_CAME.items():
        section, _, name = key.partition(".")
        earlier.setdefault(section, {})[name] = value
    stored = read_study_toml(path)
    for (section, name), raised in ALLOWED_BEFORE.items():
        values = stored.get(section)
        if isinstance(values, dict) and values.get(name) in raised:
            values[name] = max(raised) + 1
    return parse_spec([Layer("earlier versions", earlier), Layer(str(path), stored)])
