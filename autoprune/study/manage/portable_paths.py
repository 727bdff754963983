"""Where a spec points outside its study, and how that is written for another machine.

``/home/me/code/net.py:build`` becomes ``net.py:build``: the file itself does not travel, since code that is run is
the user's own. Whoever imports the study runs it where ``net.py`` lies, or says where it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from autoprune.study.named_code import code_in
from autoprune.study.spec import StudySpec
from autoprune.study.spec_sections import WEIGHT_SUFFIXES

OUTSIDE = ("model.source", "model.weights", "data.source", "data.root")  # what an import may point elsewhere
_LOOP = ("loop.finetune", "loop.evaluate", "loop.example")
_ABSOLUTE = re.compile(r"(?<![\w:/.])(?:[A-Za-z]:)?/(?:[^\s/\"'<>:]+/)+(?=[^\s/\"'<>:])")


@dataclass(frozen=True)
class Wording:
    """Texts and what stands for them elsewhere, in JSON, in JSON within JSON, in TOML.

    Attributes:
        pairs: what is written → what is to be written.
        whole: whether only whole quoted strings are replaced.
    """

    pairs: Mapping[str, str] = field(default_factory=dict)
    whole: bool = False

    def apply(self, text: str) -> str:
        r"""Return the text in the other wording.

        >>> Wording({"/home/me/net.py": "net.py"}).apply('{"a": "{\\"source\\": \\"/home/me/net.py:f\\"}"}')
        '{"a": "{\\"source\\": \\"net.py:f\\"}"}'
        """
        for old in sorted(self.pairs, key=len, reverse=True):
            for before, after in _nested(old, self.pairs[old], self.whole):
                text = re.sub(re.escape(before) + r"(?![\w-])", lambda _: after, text)  # noqa: B023 - used at once
        return text

    def apply_to_json(self, data: Any) -> Any:
        """Return JSON data in the other wording."""
        return json.loads(self.apply(json.dumps(data))) if self.pairs else data

    def apply_to_tensors(self, content: bytes) -> bytes:
        """Return a safetensors file whose header, its metadata included, is in the other wording.

        The file is eight bytes of the header's length, the header as JSON, and the tensors at offsets from its end.
        """
        length = int.from_bytes(content[:8], "little")
        header = content[8 : 8 + length].decode("utf-8", errors="surrogateescape")  # it may be damaged, and stays so
        changed = self.apply(header)
        if changed == header:
            return content
        encoded = changed.rstrip().encode("utf-8", errors="surrogateescape")
        encoded += b" " * (-len(encoded) % 8)
        return len(encoded).to_bytes(8, "little") + encoded + content[8 + length :]


def _nested(old: str, new: str, whole: bool) -> list[tuple[str, str]]:
    """Return what stands for a pair in text, in JSON and in JSON within JSON, the deepest first."""
    pairs = [(f'"{_escaped(old)}"', f'"{_escaped(new)}"')] if whole else [(old, new)]
    for _ in range(2):
        pairs.append((_escaped(pairs[-1][0]), _escaped(pairs[-1][1])))
    return list(dict.fromkeys(reversed(pairs)))


def _escaped(text: str) -> str:
    return json.dumps(text)[1:-1]


def portable_wording(spec: StudySpec) -> Wording:
    """Return how the absolute paths of a spec are written elsewhere: by as few of their last parts as tell them apart.

    >>> from autoprune.study.spec_sections import ModelSpec
    >>> portable_wording(StudySpec(model=ModelSpec(source="/home/me/net.py:build"))).pairs
    {'/home/me/net.py': 'net.py'}
    """
    values = [str(_value(spec, key)) for key in (*OUTSIDE, *_LOOP)] + list(spec.space.importances)
    absolute = sorted({path for value in values if (path := _path_in(value)) is not None}, key=str)
    pairs: dict[str, str] = {}
    for path in absolute:
        parts, count = path.parts[1:] or (path.anchor,), 1
        while (short := "/".join(parts[-count:])) in pairs.values() and count < len(parts):
            count += 1
        pairs[str(path)] = short
    return Wording(pairs)


def _path_in(value: str) -> PurePath | None:
    """Return the absolute path that a value of a spec holds, if it does."""
    for text in (value, value.partition(":")[2], value.rpartition(":")[0]):
        path = Path(text)
        if text and path.is_absolute() and ".py:" not in text:
            return path
    return None


def _value(spec: StudySpec, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(spec, section), name)


def outside_values(spec: StudySpec) -> dict[str, str]:
    """Return what a study needs that its archive does not carry: files and modules, by dotted key."""
    values = {key: str(_value(spec, key)) for key in OUTSIDE if key != "data.root"}
    found = {key: value for key, value in values.items() if _is_outside(value)}
    return {**{key: ", ".join(names) for key, names in code_in(spec).items()}, **found}


def _is_outside(value: str) -> bool:
    named, colon, _ = value.partition(":")
    return value != "" and (value.endswith(WEIGHT_SUFFIXES) or (colon != "" and named != "torchvision"))


def relocated(spec: StudySpec, given: Mapping[str, str]) -> tuple[StudySpec, Wording]:
    """Return a spec that points to other places, and the wording that brings what was stored in line with it.

    Args:
        spec: as it came.
        given: dotted key of :data:`OUTSIDE` → new value.
    """
    changes: dict[str, dict[str, object]] = {}
    for key, value in given.items():
        section, _, name = key.partition(".")
        changes.setdefault(section, {})[name] = value
    sections = {name: getattr(spec, name).model_copy(update=update) for name, update in changes.items()}
    pairs = {str(_value(spec, key)): value for key, value in given.items() if key != "data.root" and _value(spec, key)}
    return spec.model_copy(update=sections), Wording(pairs, whole=True)


def without_paths(text: str) -> str:
    """Return a message or a traceback whose absolute paths have lost their folders.

    >>> without_paths('File "/home/me/code/net.py", line 3')
    'File "net.py", line 3'
    """
    return _ABSOLUTE.sub("", text)
