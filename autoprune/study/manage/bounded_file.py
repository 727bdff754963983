"""A compressed file that gives out no more than so many bytes, whatever it claims to hold."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import IO, cast

from autoprune.errors import UsageError


class BoundedFile(io.RawIOBase):
    """What a gzip file, or a plain one, unpacks to, read forwards and up to a limit.

    A small file can unpack to terabytes, and readers of archives take whole headers into memory before anybody can
    look at them.

    Args:
        path: the file.
        limit: bytes.
    """

    def __init__(self, path: Path, limit: int) -> None:
        with path.open("rb") as begin:
            is_gzip = begin.read(2) == b"\x1f\x8b"
        opened = gzip.GzipFile(path) if is_gzip else path.open("rb")
        self._inner = cast(IO[bytes], opened)
        self._path, self._left, self._limit = path, limit, limit

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def allow(self, more: int) -> None:
        """Raise the limit by so many bytes."""
        self._limit += more
        self._left += more

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes.

        Raises:
            UsageError: if they go beyond the limit.
        """
        if not 0 <= size <= self._left:
            raise UsageError(
                f"{str(self._path)!r} unpacks to more than {self._limit / 1e6:.0f} MB, which is more than it says; "
                "it is refused as a whole"
            )
        content = self._inner.read(size)
        self._left -= len(content)
        return content

    def close(self) -> None:
        """Close the file."""
        self._inner.close()
        super().close()
