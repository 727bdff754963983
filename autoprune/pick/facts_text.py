"""Facts of a card as a line of text."""

from __future__ import annotations

from collections.abc import Mapping

from autoprune.core.builtin_names import MODELS
from autoprune.core.live_objects import is_live


def in_words(facts: Mapping[str, object]) -> str:
    """Return facts as a line of text.

    >>> in_words({"name": "digits", "sizes": {"train": 2, "val": 1}, "borders": [0.5, 1.0], "distill": True})
    'name digits, sizes (train 2, val 1), borders 0.5 1, distill yes'
    """
    return ", ".join(f"{name.replace('_', ' ')} {_word(value)}" for name, value in facts.items())


def _word(value: object) -> str:
    if isinstance(value, Mapping):
        return f"({in_words(value)})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " ".join(map(_word, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def load_call(source: str, folder: str) -> str:
    """Return the line of Python that loads a picked network.

    >>> load_call("resnet56", "."), load_call("net.py:build", ".")
    ("autoprune.load('.')", "autoprune.load('.', trust_code=True)")

    Args:
        source: of the dense network; code has to be trusted to be run.
        folder: the picked folder.
    """
    extra = ", trust_code=True" if MODELS.is_code(source) else ", network=model" if is_live(source) else ""
    return f"autoprune.load({folder!r}{extra})"
