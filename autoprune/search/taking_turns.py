"""What several workers of a study do one after the other, or only one of them: preparing the study, and logging it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from autoprune.core.file_lock import ALONE, FileLock
from autoprune.core.notify import Notify
from autoprune.study.lock import open_lock

_PAUSE = 0.2  # seconds between two looks at whether it is this worker's turn
_SHORT_PAUSE = 0.02  # where it takes part in the work of whoever has it, which comes in small pieces


class Turn:
    """A turn that one worker has at a time; a dead worker's ends with it.

    Args:
        path: of the file that says whose turn it is, held locked.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: FileLock | None = None

    def take(self) -> bool:
        """Take the turn if nobody has it; return whether this worker has it now.

        Raises:
            StudyError: if the file cannot be made or locked.
        """
        if self._held is None:
            lock = open_lock(self._path)
            if not lock.take(ALONE):
                lock.release()
                return False
            self._held = lock
        return True

    @property
    def is_had(self) -> bool:
        """Return whether this worker has the turn."""
        return self._held is not None

    def wait(self, notify: Notify, sentence: str, meanwhile: Callable[[], bool]) -> None:
        """Take the turn as soon as nobody else has it.

        Args:
            notify: called with a sentence, once, if that takes time.
            sentence: that says what is waited for.
            meanwhile: called again and again until then; returns whether it did anything.

        Raises:
            StudyError: as :meth:`take`.
        """
        if self.take():
            return
        notify(sentence)
        while not self.take():
            if not meanwhile():
                time.sleep(_SHORT_PAUSE)

    def wait_unless(self, is_enough: Callable[[], bool], notify: Notify, sentence: str) -> None:
        """Take the turn as soon as nobody else has it, or go on without it as soon as that is enough.

        Args:
            is_enough: returns whether this worker can go on without the turn.
            notify: called with a sentence, once, if that takes time.
            sentence: that says what is waited for.

        Raises:
            StudyError: as :meth:`take`.
        """
        is_told = False
        while not self.take() and not is_enough():
            if not is_told:
                notify(sentence)
                is_told = True
            time.sleep(_PAUSE)

    def close(self) -> None:
        """Give the turn to the next; again, nothing happens."""
        if self._held is not None:
            self._held.release()
            self._held = None
