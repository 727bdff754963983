"""How many threads PyTorch uses in this process, kept to the cores that other programs leave free.

Where nobody says how many, a process begins with one thread for each core that is free, and looks again every few
seconds, between two steps. It goes by what others have used meanwhile, as two threads beside one busy program train
many times as slow as one thread does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from autoprune.core.busy_cores import BusyWatch, cores_left
from autoprune.core.cores import available_cores, default_threads, threads_are_given
from autoprune.core.notify import Notify, silent

LOOK_SECONDS = 10.0
FIRST_LOOK_SECONDS = 2.0  # what is known at the beginning is of a moment, and may be of another process's start
_TAKEN = 0.5  # cores in use by others above which a thread goes; it comes back where a process would begin with it


@dataclass
class ThreadCount:
    """The number of threads of this process, which is one number for all of it.

    Attributes:
        clock: seconds that pass.
        watch: begins to look at what others use.
    """

    clock: Callable[[], float] = time.monotonic
    watch: Callable[[], BusyWatch] = BusyWatch
    _busy: BusyWatch | None = field(default=None, init=False)
    _due: float = field(default=0.0, init=False)
    _notify: Notify = field(default=silent, init=False)

    def begin(self, wanted: int, notify: Notify) -> None:
        """Set the number, and keep to free cores from now on if nobody has said how many threads there are to be.

        Args:
            wanted: 0 for as many as the environment says, or else one for each free core.
            notify: called with a sentence whenever the number changes later.
        """
        torch.set_num_threads(wanted or default_threads())
        adapts = not wanted and not threads_are_given() and available_cores() > 1
        self._busy, self._notify = self.watch() if adapts else None, notify
        self._due = self.clock() + FIRST_LOOK_SECONDS

    def keep(self) -> None:
        """Take fewer threads, or more, if others have used more cores or fewer since the last look.

        To be called between two steps; looks after two seconds and then every ten, and returns at once in between.
        """
        if self._busy is None or self.clock() < self._due:
            return
        self._due = self.clock() + LOOK_SECONDS
        used, now = self._busy.since_last(), torch.get_num_threads()
        if used is None:
            return
        cores = available_cores()
        wanted = min(max(now, cores_left(cores, used)), cores_left(cores, used, _TAKEN))
        if wanted != now:
            torch.set_num_threads(wanted)
            self._notify(
                f"other programs use about {used:.1f} of the {cores} cores now, so this process goes on with "
                f"{wanted} thread{'' if wanted == 1 else 's'}; --threads says how many it is to take"
            )


OF_PROCESS = ThreadCount()
