"""How long each phase of an evaluation takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

LOOK = "rung"  # the phase of a look; its seconds are stored under this name, which dates from the first version
PHASES = ("prune", "compensate", "recalibrate", LOOK, "finetune", "score", "latency")
OnPhase = Callable[[str], None]
"""Called with the name of a phase when it begins or goes on."""


@dataclass
class Stopwatch:
    """The seconds of named phases, added up while they run.

    Attributes:
        on_phase: called when a phase begins, and when one goes on after another within it.
        seconds: phase → seconds so far.
        started: when the watch was started, in seconds of :func:`time.perf_counter`.
    """

    on_phase: OnPhase
    seconds: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    _running: list[str] = field(default_factory=list)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time a phase; one that raises is counted too, and one within another is not counted as the other."""
        self.on_phase(phase)
        self._running.append(phase)
        started, before = time.perf_counter(), sum(self.seconds.values())
        try:
            yield
        finally:
            within = sum(self.seconds.values()) - before
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - started - within
            self._running.pop()
        if self._running:
            self.on_phase(self._running[-1])

    def with_rest(self) -> dict[str, float]:
        """Return phase → seconds, with everything since the start that was in no phase as ``other``."""
        other = time.perf_counter() - self.started - sum(self.seconds.values())
        return {**self.seconds, "other": other}
