"""Leases: the right of one worker to one candidate, kept alive by a heartbeat and lost without it.

Every minute a thread records a heartbeat of each candidate that this process evaluates, by the database's clock. A
lease has run out if its worker is known to be dead on this machine, or its last heartbeat is three minutes old, as of
a process that was stopped or a machine that is gone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from optuna.storages import RDBStorage


class Heart:
    """A thread that keeps the leases of this process alive.

    Args:
        storage: holds the study.
        held: returns the ids of the trials that this process evaluates.
        grace_seconds: after which a lease without a heartbeat has run out; three fall into that time.
    """

    def __init__(self, storage: RDBStorage, held: Callable[[], list[int]], grace_seconds: float) -> None:
        self._storage, self._held, self._seconds = storage, held, grace_seconds / 3
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to beat; again, nothing happens."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat, name="autoprune-heartbeat", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop beating."""
        self._stopped.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=5.0)
        self._thread = None

    def _beat(self) -> None:
        while not self._stopped.wait(self._seconds):
            for trial_id in self._held():
                with suppress(Exception):  # the next beat may reach a database that is restarted now
                    self._storage.record_heartbeat(trial_id)
        with suppress(Exception):
            self._storage.remove_session()
