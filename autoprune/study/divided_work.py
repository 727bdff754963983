"""Work that divides among the workers of one folder: an item is computed by whoever is free.

The worker whose turn it is lays items out in a folder, takes its own part, and collects what came of all of them, in
order. The others take part for as long as they wait for that turn. Who computes an item holds a lock of the operating
system on it, so that a dead worker's item is free again at once. What comes of an item must not depend on who computes
it; then neither does the study depend on how many there are.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from autoprune.core.file_lock import ALONE, FileLock
from autoprune.core.json_values import DAMAGE, JsonObject, parse_json
from autoprune.errors import AutopruneError, StudyError

_LAID_OUT = "items.json"
_PAUSE = 0.02  # seconds between two looks at what others have computed

Compute = Callable[[JsonObject], JsonObject]
"""From an item to what comes of it; both are plain JSON."""


@dataclass(frozen=True)
class _Batch:
    """Items that are laid out together.

    Attributes:
        folder: where they lie.
        name: unlike that of any other batch.
        kind: what is to be done with them.
        items: in order.
    """

    folder: Path
    name: str
    kind: str
    items: Sequence[JsonObject]

    def found(self, place: int) -> JsonObject | None:
        """Return what came of an item; ``None`` if nothing has come yet."""
        try:
            read: JsonObject = parse_json(self._file(place, "json").read_text(encoding="utf-8"))
            return read
        except (OSError, *DAMAGE):
            return None

    def compute_next(self, places: Iterable[int], compute: Compute) -> bool:
        """Compute the first of some items that nobody has computed or computes; return whether there was one."""
        return any(self.found(place) is None and self._computed(place, compute) for place in places)

    def _computed(self, place: int, compute: Compute) -> bool:
        path = self._file(place, "lock")
        try:
            lock = FileLock(path)
        except OSError as error:
            raise _unwritable(path, error) from error
        try:
            if not lock.take(ALONE) or self.found(place) is not None or not self._is_under_way():
                return False
            self._write(f"{self.name}-{place}.json", json.dumps(compute(self.items[place])))
            return True
        finally:
            lock.release()

    def lay_out(self) -> None:
        """Show it to others, in the place of any other batch.

        Raises:
            StudyError: if it cannot be written.
        """
        self._write(_LAID_OUT, json.dumps({"batch": self.name, "kind": self.kind, "items": list(self.items)}))

    def _is_under_way(self) -> bool:
        """Return whether it is still shown; once all is found it goes, and then its results."""
        shown = self.laid_out(self.folder)
        return shown is not None and shown.name == self.name

    @classmethod
    def laid_out(cls, folder: Path) -> _Batch | None:
        """Return the batch that a folder shows; ``None`` if there is none."""
        try:
            read = parse_json((folder / _LAID_OUT).read_text(encoding="utf-8"))
            return cls(folder, str(read["batch"]), str(read["kind"]), list(read["items"]))
        except (OSError, *DAMAGE):
            return None

    def _write(self, name: str, text: str) -> None:
        """Write a file in one step, into a folder that is still there: not into one that was removed with its study."""
        temporary = self.folder / f"{name}.tmp"
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(self.folder / name)
        except OSError as error:
            raise _unwritable(temporary, error) from error

    def remove(self) -> None:
        """Remove its files."""
        for path in [self.folder / _LAID_OUT, *self.folder.glob(f"{self.name}-*")]:
            with suppress(OSError):
                path.unlink()

    def _file(self, place: int, ending: str) -> Path:
        return self.folder / f"{self.name}-{place}.{ending}"


def _unwritable(path: Path, error: OSError) -> StudyError:
    return StudyError(
        f"cannot write {str(path)!r}: {error.strerror or error}; make the study's folder writable, free space, or "
        "restore the folder, and the same command goes on"
    )


class DividedWork:
    """What the worker whose turn it is shares with those that wait for it.

    Args:
        folder: where items are laid out; it is there as long as others may take part. ``None``: nobody ever does.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._failed: set[tuple[str, int]] = set()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Let others take part as long as the context lasts.

        Raises:
            StudyError: if the folder cannot be made.
        """
        self.close()
        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True)
            except OSError as error:
                raise StudyError(
                    f"cannot make {str(self._folder)!r}: {error.strerror or error}; make the study's folder writable"
                ) from error
        try:
            yield
        finally:
            self.close()

    def close(self) -> None:
        """Let nobody take part any more; what a worker that died has left goes too."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def results(self, kind: str, items: Sequence[JsonObject], compute: Compute) -> Iterator[JsonObject]:
        """Yield what comes of each item, in order, as soon as it and all before it are there.

        Args:
            kind: by which others know what is to be done with an item.
            items: plain JSON.
            compute: does it here; what it raises ends all.

        Raises:
            StudyError: if the folder cannot be written, or is gone with its study.
        """
        if self._folder is None or not self._folder.is_dir():
            yield from map(compute, items)
            return
        batch = _Batch(self._folder, uuid4().hex, kind, items)
        batch.lay_out()
        try:
            for place in range(len(items)):
                while (found := batch.found(place)) is None:
                    if not batch.compute_next(range(place, len(items)), compute):
                        time.sleep(_PAUSE)
                yield found
        finally:
            batch.remove()

    def help(self, computes: Mapping[str, Compute]) -> bool:
        """Compute one item that is laid out and free; return whether there was one.

        An item that fails here is left to the worker that laid it out, which fails by it, or does not.

        Args:
            computes: kind → what computes an item of it; items of other kinds are left to others.
        """
        batch = None if self._folder is None else _Batch.laid_out(self._folder)
        if batch is None or batch.kind not in computes:
            return False
        for place in range(len(batch.items)):
            if (batch.name, place) in self._failed:
                continue
            try:
                if batch.compute_next([place], computes[batch.kind]):
                    return True
            except AutopruneError:
                self._failed.add((batch.name, place))
        return False
