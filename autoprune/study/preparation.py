"""Who prepares a study, as machines without a shared folder see it: :class:`Preparation`, a lease without clocks.

Whoever comes first claims the study as its home. With an artifact store it prepares under a lease: a fact of the study
that counts up while it works. Others watch the count; if it stands still for the grace, by their own clock, whoever
notices takes the preparation over. What was taken over cannot be ended by its first worker.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from autoprune.core.json_values import DAMAGE, parse_json
from autoprune.core.notify import Notify
from autoprune.errors import LeaseLostError, StudyElsewhereError, StudyError
from autoprune.study.asking import making_tables
from autoprune.study.folder import StudyFolder
from autoprune.study.leases import GRACE_SECONDS
from autoprune.study.open_study import OpenStudy
from autoprune.study.storage import closing_storage, tried_again
from autoprune.study.storage_url import sqlite_path
from autoprune.study.workers import home_in

HOME = "home"  # the fact that says on which machine, and in which folder there, the study began
FACT = "preparation"
_LOOK_SECONDS = 1.0  # between two looks at whether it is done


@dataclass(frozen=True)
class Standing:
    """How far a preparation has come.

    Attributes:
        worker: who prepares, as the name of a worker is written.
        state: ``under way``; ``left`` if it ended by an error; ``done`` as soon as everything is in the store.
        count: goes up while the worker lives.
    """

    worker: str
    state: Literal["under way", "left", "done"]
    count: int = 0

    @classmethod
    def in_facts(cls, facts: Mapping[str, Any]) -> Standing | None:
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

    def claim(self, holds_network: bool, *, shares: bool = False, stale: Standing | None = None) -> None:
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

    def _claimed(self, place: str, holds_network: bool, shares: bool, stale: Standing | None) -> str:
        """Return where the study is at home, here if it had no home, or lost the one it had."""
        with self._open.alone():
            known = self._facts()
            home, standing = known.get(HOME), Standing.in_facts(known)
            is_new = home is None and not ("fingerprint" in known and not holds_network)
            if is_new or (stale is not None and standing == stale):
                self._remember(HOME, place)
                home, is_new = place, True
            is_open = is_new or (standing is not None and standing.state != "done")
            if shares and home == place and is_open:
                self._remember(FACT, asdict(Standing(str(self._open.worker), "under way")))
                self._beat()
            return "another machine:" if home is None else str(home)

    def check(self) -> Standing | None:
        """Return how far the preparation has come.

        Raises:
            LeaseLostError: if it is under way elsewhere: this worker was not heard of for so long.
        """
        return self._open.tried(lambda _: self._checked())

    def _checked(self) -> Standing | None:
        standing = Standing.in_facts(self._facts())
        if standing is not None and standing.state == "under way" and standing.worker != str(self._open.worker):
            raise LeaseLostError(
                "another machine prepares this study now, since nothing had been heard of this one for so long; run "
                "the same command again, which fetches what it prepares"
            )
        return standing

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
        self.remember(FACT, asdict(Standing(str(self._open.worker), "done")))
        self._stop()

    def close(self) -> None:
        """Leave the preparation to others if this worker has not come to its end; again, nothing happens."""
        if self._thread is None:
            return
        self._stop()
        with suppress(StudyError):  # others notice by themselves
            self._open.tried(lambda _: self._write_own(lambda own: replace(own, state="left")))

    def _beat(self) -> None:
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

    def _write_own(self, change: Any) -> None:
        """Change the lease, if it is still this worker's."""
        with self._open.alone():
            own = Standing.in_facts(self._facts())
            if own is not None and own.worker == str(self._open.worker) and own.state == "under way":
                self._remember(FACT, asdict(change(own)))

    def _facts(self) -> dict[str, Any]:
        stored = self._open.storage.get_study_user_attrs(self._open.study_id)
        return {key: parse_json(value) for key, value in stored.items()}

    def _remember(self, key: str, value: object) -> None:
        self._open.storage.set_study_user_attr(self._open.study_id, key, json.dumps(value))


@dataclass(frozen=True)
class Awaited:
    """What came of waiting for another machine's preparation.

    Attributes:
        facts: of the study, once it is prepared and everything is in the store.
        stale: of a preparation whose worker is gone, to be taken over; ``None`` otherwise.
    """

    facts: Mapping[str, Any]
    stale: Standing | None = None


def wait_for_preparation(
    url: str, name: str, folder: StudyFolder, notify: Notify, grace_seconds: float = GRACE_SECONDS
) -> Awaited | None:
    """Wait until a study that is at home elsewhere is prepared; ``None`` if it is at home here, or has not begun.

    Nothing is written.

    Args:
        url: of the storage.
        name: of the study.
        folder: of the study, on this machine.
        notify: called with a sentence, once, if there is something to wait for.
        grace_seconds: after which a preparation that stands still has run out.

    Raises:
        StudyError: if the storage cannot be read, or the study was begun without an artifact store.
    """
    file = sqlite_path(url)
    if file is not None and not file.exists():
        return None
    with making_tables(url), closing_storage(url, to_read=True):
        pass  # one process makes them
    with closing_storage(url, to_read=True) as storage:

        def look(_: bool) -> dict[str, Any] | None:
            try:
                stored = storage.get_study_user_attrs(storage.get_study_id_from_name(name))
            except KeyError:
                return None
            return {key: parse_json(value) for key, value in stored.items()}

        watched = _Watched(grace_seconds)
        while True:
            facts = tried_again(storage, url, look)
            storage.remove_session()  # the next look is at what is stored then
            if facts is None or facts.get(HOME) is None:
                return None
            found = watched.found(facts, home_in(folder.path))
            if found is not _NOT_YET:
                return found
            watched.say_once(facts, notify)
            time.sleep(_LOOK_SECONDS)


_NOT_YET = Awaited({})


class _Watched:
    """A preparation that another machine is at, looked at again and again.

    Args:
        grace_seconds: after which one that stands still has run out.
    """

    def __init__(self, grace_seconds: float) -> None:
        self._grace_seconds, self._since, self._has_said = grace_seconds, 0.0, False
        self._seen: Standing | None = None

    def found(self, facts: Mapping[str, Any], own: str) -> Awaited | None:
        """Return what came of it, or :data:`_NOT_YET`.

        Raises:
            StudyError: if the study was begun elsewhere, without an artifact store.
        """
        standing, home = Standing.in_facts(facts), str(facts[HOME])
        if standing is not None and standing.state == "done":
            return Awaited(facts)
        if home == own:
            return None
        if standing is None:
            raise StudyError(
                f"this study began on {home.partition(':')[0]} without --artifacts, so nothing of it is there to "
                f"fetch; run the same command with --artifacts on that machine, or copy the study's folder from there"
            )
        if standing != self._seen:
            self._seen, self._since = standing, time.monotonic()
        is_late = time.monotonic() - self._since > self._grace_seconds
        return Awaited({}, standing) if standing.state == "left" or is_late else _NOT_YET

    def say_once(self, facts: Mapping[str, Any], notify: Notify) -> None:
        """Say who is waited for."""
        if not self._has_said:
            notify(f"waiting for {str(facts[HOME]).partition(':')[0]}, which prepares the study")
        self._has_said = True
