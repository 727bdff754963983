"""The display that suits the place a program runs in: a block below a notebook's cell, live lines, or plain ones."""

from __future__ import annotations

from autoprune.loggers.console import AnyDisplay, make_display
from autoprune.loggers.notebook import NotebookDisplay, below_the_cell
from autoprune.loggers.safe_console import SafeConsole


def shown_display() -> AnyDisplay | NotebookDisplay:
    """Return a display for a Python program's user."""
    console = SafeConsole(stderr=True)
    return NotebookDisplay(below_the_cell()) if console.is_jupyter else make_display(console)
