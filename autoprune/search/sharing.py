"""A search whose workers see no common folder: what one machine has prepared comes to the others by an artifact store.

Whoever comes first prepares the study and sends it; the others wait, fetch it into folders of their own, and search.
The teacher's answers, which the first trial computes, follow it. Weights of trials stay where they were trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from autoprune.core.notify import Notify
from autoprune.core.trial import Candidate, Trial
from autoprune.errors import StudyError
from autoprune.loggers.protocol import Observer
from autoprune.study.artifact_store import ArtifactStore
from autoprune.study.await_preparation import wait_for_preparation
from autoprune.study.folder import StudyFolder
from autoprune.study.ledger import Ledger
from autoprune.study.preparation import PreparationLease
from autoprune.study.shared_files import SharedFiles, megabytes


@dataclass(frozen=True)
class Sharing:
    """A study's part in an artifact store.

    Attributes:
        files: of the study.
        notify: called with a sentence on what is going on.
    """

    files: SharedFiles
    notify: Notify

    @classmethod
    def through(cls, place: str, folder: StudyFolder, name: str, notify: Notify) -> Sharing:
        """Return the part of a study in the store at a place, which is tried.

        Raises:
            UsageError: if there is no such place.
            StudyError: if it cannot be reached, written or read.
        """
        store = ArtifactStore(place)
        store.check()
        return cls(SharedFiles(store, folder, name), notify)

    def fetch(self, url: str) -> PreparationLease | None:
        """Wait for another machine's preparation, and bring it here.

        Args:
            url: of the storage.

        Returns:
            a preparation that is to be taken over, as its machine is gone; ``None`` if there is none.

        Raises:
            StudyError: if the storage or the store fails, or the study began without a store.
        """
        found = wait_for_preparation(url, self.files.name, self.files.folder, self.notify)
        if found is None:
            return None
        if found.stale is not None:
            self.notify("nothing is heard of the machine that prepared this study; it is prepared here now")
            return found.stale
        fetched = self.files.fetch(found.facts)
        if fetched:
            self.notify(f"fetched {megabytes(fetched)} that another machine prepared, from {self.files.store.place}")
        return None

    def send(self, ledger: Ledger) -> None:
        """Leave in the store what is prepared here, and say that it is done.

        Raises:
            LeaseLostError: if another machine has taken the preparation over.
            StudyMismatchError: if the folder's dense network is not the study's.
            StudyError: if the store cannot be written.
        """
        lease = ledger.preparation.check()
        is_first = lease is None or lease.state != "done"
        if not is_first:
            self.files.check_same_networks(ledger.facts)
        remember = ledger.preparation.remember if is_first else ledger.remember
        sent = self.files.send(ledger.facts, remember, replaces=is_first)
        if is_first:
            ledger.preparation.end()
        if sent:
            self.notify(f"left {megabytes(sent)} for other machines in {self.files.store.place}")

    def watch(self, observer: Observer, ledger: Ledger, warn: Notify) -> Observer:
        """Return an observer that brings and sends the teacher's answers, and passes everything on to another one.

        Args:
            observer: the other one.
            ledger: of the study.
            warn: called with a sentence, and only once, if the store fails; the search goes on.
        """
        return _Sharing(observer, self.files, ledger, warn)


@dataclass
class _Sharing:
    """An observer that shares the teacher's answers before and after each trial."""

    observer: Observer
    files: SharedFiles
    ledger: Ledger
    warn: Notify
    _has_warned: bool = field(default=False, init=False)

    def asked(self, candidate: Candidate) -> None:
        self.observer.asked(candidate)
        self._attempt(lambda: self.files.fetch_teacher(self.ledger.facts))

    def phase(self, name: str) -> None:
        self.observer.phase(name)

    def told(self, trial: Trial) -> None:
        self._attempt(lambda: self.files.send(self.ledger.facts, self.ledger.remember))
        self.observer.told(trial)

    def _attempt(self, share: Callable[[], object]) -> None:
        try:
            share()
        except StudyError as error:
            if not self._has_warned:
                self._has_warned = True
                self.warn(f"{error}. The search goes on; each machine computes the teacher's answers for itself")
