"""Waiting for a study that another machine prepares, as a reader of its facts: :func:`wait_for_preparation`.

``preparation`` is the other side: who prepares, under a lease that counts up while it lives.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoprune.core.notify import Notify
from autoprune.errors import StudyError
from autoprune.study.asking import making_tables
from autoprune.study.folder import StudyFolder
from autoprune.study.lapsed_leases import GRACE_SECONDS
from autoprune.study.preparation import HOME, PreparationLease
from autoprune.study.storage import closing_storage, facts_in, tried_again
from autoprune.study.storage_url import sqlite_path
from autoprune.study.workers import home_in

_LOOK_SECONDS = 1.0  # between two looks at whether it is done


@dataclass(frozen=True)
class Awaited:
    """What came of waiting for another machine's preparation.

    Attributes:
        facts: of the study, once it is prepared and everything is in the store.
        stale: of a preparation whose worker is gone, to be taken over; ``None`` otherwise.
    """

    facts: Mapping[str, Any]
    stale: PreparationLease | None = None


def wait_for_preparation(
    url: str, name: str, folder: StudyFolder, notify: Notify, grace_seconds: float = GRACE_SECONDS
) -> Awaited | None:
    """Wait until a study that is at home elsewhere is prepared; ``None`` if it is at home here, or has not begun.

    Nothing is written but the tables of an empty database.

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
            return facts_in(storage, name)

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
        self._seen: PreparationLease | None = None

    def found(self, facts: Mapping[str, Any], own: str) -> Awaited | None:
        """Return what came of it, or :data:`_NOT_YET`.

        Raises:
            StudyError: if the study was begun elsewhere, without an artifact store.
        """
        lease, home = PreparationLease.in_facts(facts), str(facts[HOME])
        if lease is not None and lease.state == "done":
            return Awaited(facts)
        if home == own:
            return None
        if lease is None:
            raise StudyError(
                f"this study began on {home.partition(':')[0]} without --artifacts, so nothing of it is there to "
                f"fetch; run the same command with --artifacts on that machine, or copy the study's folder from there"
            )
        if lease != self._seen:
            self._seen, self._since = lease, time.monotonic()
        is_late = time.monotonic() - self._since > self._grace_seconds
        return Awaited({}, lease) if lease.state == "left" or is_late else _NOT_YET

    def say_once(self, facts: Mapping[str, Any], notify: Notify) -> None:
        """Say who is waited for."""
        if not self._has_said:
            notify(f"waiting for {str(facts[HOME]).partition(':')[0]}, which prepares the study")
        self._has_said = True
