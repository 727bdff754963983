"""Write docs/reference/spec.md: every value of a ``study.toml``, from the spec's own types.

``tests/test_docs.py`` checks that the page is up to date.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from autoprune.core.metrics import FLOP_CONVENTION
from autoprune.study.spec import StudySpec, fingerprint

TARGET = Path(__file__).resolve().parent.parent / "docs" / "reference" / "spec.md"
HEADER = f"""# Every value of a study

Written by `python scripts/make_spec_docs.py` from the types in `autoprune/study/spec.py` and
`autoprune/study/spec_sections.py`.

A study is a folder with a `study.toml`; what is left out has the default below, which is the main job. The command line
overrides the file; `--set KEY=VALUE` reaches every value (`--set finetune.lr=0.02`). Values marked ● give the stored
trials their meaning: once a study has trials they cannot change. Costs: {FLOP_CONVENTION}.
"""


def table(model: type[BaseModel], prefix: str, fixed: set[str]) -> str:
    rows = [
        f"| `{name}` | {shown(field)} | {mark(prefix + name, fixed)} | {words(field)} |"
        for name, field in model.model_fields.items()
        if not is_section(field)
    ]
    return "\n".join(["| value | default | ● | what it is |", "|---|---|---|---|", *rows])


def words(field: FieldInfo) -> str:
    """Return what a field is, and what it may be where the description leaves out a choice."""
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    is_complete = all(re.search(rf"\b{re.escape(str(each))}\b", field.description) for each in choices)
    return field.description if is_complete else f"{field.description}; one of {', '.join(map(str, choices))}"


def is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def shown(field: FieldInfo) -> str:
    value: Any = field.default
    if isinstance(value, tuple):
        value = list(value)
    return "none" if value is None else f"`{value!r}`".replace("'", '"')


def mark(key: str, fixed: set[str]) -> str:
    return "●" if key in fixed else ""


def spec_docs() -> str:
    fixed = set(fingerprint(StudySpec()))
    parts = [HEADER, table(StudySpec, "", fixed)]
    for name, field in StudySpec.model_fields.items():
        if is_section(field):
            parts.append(f"\n## [{name}]\n\n{field.description[0].upper()}{field.description[1:]}.\n")
            parts.append(table(field.annotation, f"{name}.", fixed))
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    TARGET.write_text(spec_docs(), encoding="utf-8")
    print(f"written: {TARGET}", file=sys.stderr)
