"""Who prepares a study, as machines without a shared folder see it: :class:`Preparation`, a lease without clocks.

Whoever comes first claims the study as its home. With an artifact store it prepares under a lease: a fact of the study
that counts up while it works. Others watch the count; if it stands still for the grace, by their own clock, whoever
notices takes the preparation over. What was taken over cannot be ended by its first worker.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from autoprune.core.json_values import DAMAGE, parse_json
from autoprune.errors import LeaseLostError, StudyElsewhereError, StudyError
from autoprune.study.open_study import OpenStudy

HOME = "home"  # the fact that says on which machine, and in which folder there, the study began
FACT = "preparation"


@dataclass(frozen=True)
class PreparationLease:
    """Who prepares a study, and how far that has come.

    Attributes:
        worker: who prepares, as the name of a worker is written.
        state: ``under way``; ``left`` if it ended by an error; ``done`` as soon as everything is in the store.
        count: goes up while the worker lives.
    """

    worker: str
    state: Literal["under way", "left", "done"]
    count: int = 0

    @classmethod
    def in_facts(cls, facts: Mapping[str, Any]) -> PreparationLease | None:
        """Return what a study's facts say; ``None`` if they say nothing, as of one that is not shared.

        Raises:
            StudyError: if that is damaged.
        """
        stored = facts.get(FACT)
        if stored is None:
            return None
        try:
            return cls(str(stored["worker"]), stored["state"], int(stored["count"]))
        except DAMAGE as error:
            raise StudyError(
                f"what the study says about its preparation is damaged ({type(error).__name__}: {error}); restore the "
                f"storage from a copy"
            ) from error


class Preparation:
    """The preparation of a study, as one of its workers takes part in it.

    Args:
        opened: the study.
        grace_seconds: after which a lease whose count stands still has run out; it goes up three times in that.
    """

    def __init__(self, opened: OpenStudy, grace_seconds: float) -> None:
        self._open, self._seconds = opened, grace_seconds / 3
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def claim(self, holds_network: bool, *, shares: bool = False, stale: PreparationLease | None = None) -> None:
        """Check that this folder is the one that the study began in, or holds its dense network as well.

        Two dense networks in one study would make trials that cannot be compared.

        Args:
            holds_network: whether the folder holds a dense network.
            shares: whether this worker will leave what it prepares in an artifact store: it prepares under a lease.
            stale: of a preparation whose worker is gone; it is taken over, if nobody else has.

        Raises:
            StudyElsewhereError: naming the machine where the study began.
        """
        place = self._open.worker.home
        home = self._open.tried(lambda _: self._claimed(place, holds_network, shares, stale))
        if home != place and not holds_network:
            raise StudyElsewhereError(
                f"this study began on {home.partition(':')[0]}, and its dense network is not in this folder; give "
                f"--artifacts to the command there and here, which brings it, or copy the study's folder from there, "
                f"or share it between the machines, and run the same command again"
            )

    def _claimed(self, place: str, holds_network: bool, shares: bool, stale: PreparationLease | None) -> str:
        """Return where the study is at home, here if it had no home, or lost the one it had."""
        with self._open.alone():
            known = self._facts()
            home, lease = known.get(HOME), PreparationLease.in_facts(known)
            is_new = home is None and not ("fingerprint" in known and not holds_network)
            if is_new or (stale is not None and lease == stale):
                self._remember(HOME, place)
                home, is_new = place, True
            is_open = is_new or (lease is not None and lease.state != "done")
            if shares and home == place and is_open:
                self._remember(FACT, asdict(PreparationLease(str(self._open.worker), "under way")))
                self._beat()
            return "another machine:" if home is None else str(home)

    def check(self) -> PreparationLease | None:
        """Return how far the preparation has come.

        Raises:
            LeaseLostError: if it is under way elsewhere: this worker was not heard of for so long.
        """
        return self._open.tried(lambda _: self._checked())

    def _checked(self) -> PreparationLease | None:
        lease = PreparationLease.in_facts(self._facts())
        if lease is not None and lease.state == "under way" and lease.worker != str(self._open.worker):
            raise LeaseLostError(
                "another machine prepares this study now, since nothing had been heard of this one for so long; run "
                "the same command again, which fetches what it prepares"
            )
        return lease

    def remember(self, key: str, value: object) -> None:
        """Store a fact about what was prepared.

        Raises:
            LeaseLostError: as :meth:`check`.
        """

        def write(_: bool) -> None:
            with self._open.alone():
                self._checked()
                self._remember(key, value)

        self._open.tried(write)

    def end(self) -> None:
        """Say that everything is in the store.

        Raises:
            LeaseLostError: as :meth:`check`.
        """
        self.remember(FACT, asdict(PreparationLease(str(self._open.worker), "done")))
        self._stop()

    def close(self) -> None:
        """Leave the preparation to others if this worker has not come to its end; again, nothing happens."""
        if self._thread is None:
            return
        self._stop()
        with suppress(StudyError):  # others notice by themselves
            self._open.tried(lambda _: self._write_own(lambda own: replace(own, state="left")))

    def _beat(self) -> None:
        if self._thread is not None:
            return
        self._stopped.clear()
        self._thread = threading.Thread(target=self._keep_alive, name="autoprune-preparation", daemon=True)
        self._thread.start()

    def _keep_alive(self) -> None:
        while not self._stopped.wait(self._seconds):
            with suppress(Exception):  # the next beat may reach a database that is restarted now
                self._write_own(lambda own: replace(own, count=own.count + 1))
        with suppress(Exception):
            self._open.storage.remove_session()

    def _stop(self) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
        self._thread = None

    def _write_own(self, change: Callable[[PreparationLease], PreparationLease]) -> None:
        """Change the lease, if it is still this worker's."""
        with self._open.alone():
            own = PreparationLease.in_facts(self._facts())
            if own is not None and own.worker == str(self._open.worker) and own.state == "under way":
                self._remember(FACT, asdict(change(own)))

    def _facts(self) -> dict[str, Any]:
        stored = self._open.storage.get_study_user_attrs(self._open.study_id)
        return {key: parse_json(value) for key, value in stored.items()}

    def _remember(self, key: str, value: object) -> None:
        self._open.storage.set_study_user_attr(self._open.study_id, key, json.dumps(value))
