"""What a person sees below the cell of a notebook: one block of text, which is written anew in its place."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, TypeAlias

from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import ACCURACY, Metric
from autoprune.core.trial import Trial
from autoprune.errors import printable
from autoprune.loggers.console import RECENT, Progress, duration, how_it_ended

Show: TypeAlias = Callable[[str], object]
"""Shows a text, each time in the place of the one before."""

_BAR = 30  # characters


class NotebookDisplay(Progress):
    """A display of one block of text: warnings, the latest trials, and how far the search is.

    Args:
        show: shows the block.
        clock: gives the time in seconds.
    """

    def __init__(self, show: Show, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._show, self._clock = show, clock
        self._began = clock()
        self._status, self._end = "", ""
        self._warnings, self._lines = list[str](), list[str]()

    def __enter__(self) -> NotebookDisplay:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        """Write for the last time: that it is done, or that it was ended."""
        self._end = f"{'done' if kind is None else 'ended'} after {duration(self._clock() - self._began)}"
        self._write()

    def say(self, message: str) -> None:
        """Show a sentence as the current status."""
        self._status = message
        self._write()

    def warn(self, message: str) -> None:
        """Show a sentence that stays in sight."""
        self._warnings.append(message)
        self._write()

    def began(
        self,
        trials: list[Trial],
        wanted: int,
        budget: Budget,
        dense: Measurement,
        qualities: Sequence[Metric] = (ACCURACY,),
    ) -> None:
        """Show how far the search is from now on."""
        super().began(trials, wanted, budget, dense, qualities)
        self._write()

    def phase(self, name: str) -> None:
        """Show that a phase begins."""
        super().phase(name)
        self._write()

    def told(self, trial: Trial) -> None:
        """Show how a trial ended."""
        super().told(trial)
        origin = trial.candidate.origin.partition(":")[2]
        self._lines.append(f"trial {trial.number:>3} {origin:<10} {how_it_ended(trial, self.dense, self.qualities)}")
        self._write()

    def _write(self) -> None:
        self._show("\n".join(map(printable, self._block())))

    def _block(self) -> list[str]:
        elapsed = duration(self._clock() - self._began)
        if not self.wanted:
            return [*self._warnings, f"{self._status}; {self._end}" if self._end else f"{self._status} … {elapsed}"]
        earlier = len(self._lines) - RECENT
        lines = [f"{earlier} earlier trials …"] if earlier > 0 else []
        done = min(_BAR, _BAR * len(self.trials) // self.wanted)
        left = f", {duration(self.seconds_left)} left" if self.seconds_left and not self._end else ""
        return [
            *self._warnings,
            *lines,
            *self._lines[-RECENT:],
            f"{'━' * done}{'┄' * (_BAR - done)} {len(self.trials)} of {self.wanted} trials, {elapsed} elapsed{left}",
            f"{self.best_line()}; budget {self.budget.describe()}",
            self._end or f"now: {self.now or self._status}",
        ]


def below_the_cell() -> Show:
    """Return what shows a text below the cell that runs, each time in the place of the one before."""
    display = import_module("IPython.display").display  # there in every notebook, and nowhere a dependency
    handles: list[Any] = []

    def show(text: str) -> None:
        shown = {"text/plain": text, "text/html": f'<pre style="white-space: pre-wrap">{html.escape(text)}</pre>'}
        if handles:
            handles[0].update(shown, raw=True)
        else:
            handles.append(display(shown, raw=True, display_id=True))

    return show
