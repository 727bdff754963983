"""A console of rich that shows only text: what came from files, archives and exceptions cannot command the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from autoprune.errors import printable


class SafeConsole(Console):
    """A console that strips control characters from all text, and keeps its own colours and cursor movements."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render something; control characters in its text are left out."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)
