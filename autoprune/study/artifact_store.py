"""Where machines without a shared folder leave files for each other: :class:`ArtifactStore`, over Optuna's own.

A place is a folder that all of them see, a bucket of S3 or of Google Cloud Storage. Combined with ``shared_files``,
which knows what is left there.
"""

from __future__ import annotations

import io
import re
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.errors import StudyError, UsageError

if TYPE_CHECKING:
    from typing import BinaryIO, Protocol

    class _Optunas(Protocol):
        """What Optuna's artifact stores can do."""

        def open_reader(self, artifact_id: str) -> BinaryIO: ...

        def write(self, artifact_id: str, content_body: BinaryIO) -> None: ...

        def remove(self, artifact_id: str) -> None: ...


_URL = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*)://(?P<bucket>[^/]*)/?(?P<prefix>.*)")
_EXPECTED = "expected a folder that all machines see, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"
_SECONDS = 10.0  # to reach S3, thrice at most: who has typed a wrong name should not wait for minutes


class ArtifactStore:
    """A place for files that several machines read and write.

    Args:
        place: a folder that is there, ``s3://BUCKET/PREFIX`` or ``gs://BUCKET/PREFIX``.

    Raises:
        UsageError: if the place is of another kind, or its library is not installed.
        StudyError: if it cannot be reached.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        found = _URL.fullmatch(place)
        with _reporting(place, "opened"):
            self._store: _Optunas = _bucket(place, found["scheme"], found["bucket"]) if found else _folder(place)
        prefix = found["prefix"].strip("/") if found else ""
        self._prefix = f"{prefix}/" if prefix else ""

    def check(self) -> None:
        """Write a few bytes, read them again and remove them.

        Raises:
            StudyError: if that fails.
        """
        name, content = f"autoprune-probe-{secrets.token_hex(8)}", secrets.token_bytes(16)
        self.write(name, content)
        if self.read(name) != content:
            raise StudyError(f"the artifact store {self.place!r} does not give back what was written; give another one")
        self.remove(name)

    def remove(self, name: str) -> None:
        """Remove a file that was left there; nothing happens if there is none.

        Raises:
            StudyError: if it cannot be removed.
        """
        from optuna.artifacts.exceptions import ArtifactNotFound

        with _reporting(self.place, "written"), suppress(ArtifactNotFound, FileNotFoundError):
            self._store.remove(f"{self._prefix}{name}")

    def write(self, name: str, content: bytes) -> None:
        """Leave a file there, in place of one of that name.

        Args:
            name: letters, digits, ``.``, ``_`` and ``-``.
            content: of the file.

        Raises:
            StudyError: if it cannot be written.
        """
        with _reporting(self.place, "written"):
            self._store.write(f"{self._prefix}{name}", io.BytesIO(content))

    def read(self, name: str) -> bytes:
        """Return the content of a file that was left there.

        Raises:
            StudyError: if it is not there, or cannot be read.
        """
        with _reporting(self.place, "read"):
            reader = self._store.open_reader(f"{self._prefix}{name}")
            try:
                return reader.read()
            finally:
                reader.close()


def _folder(place: str) -> _Optunas:
    from optuna.artifacts import FileSystemArtifactStore

    if not place.strip() or not Path(place).is_dir():
        raise UsageError(
            f"--artifacts {place!r} is no folder here; {_EXPECTED}. Make the folder first, or mount the one that the "
            f"other machines use"
        )
    return FileSystemArtifactStore(place)


def _bucket(place: str, scheme: str, bucket: str) -> _Optunas:
    if scheme not in ("s3", "gs") or not bucket:
        raise UsageError(f"--artifacts {place!r} is no place that is known; {_EXPECTED}")
    try:
        return _s3(bucket) if scheme == "s3" else _google(bucket)
    except ImportError as error:
        extra = "s3" if scheme == "s3" else "gcs"
        raise UsageError(
            f"--artifacts {place!r} needs a library that is not installed ({error}); pip install 'autoprune[{extra}]'"
        ) from error


def _s3(bucket: str) -> _Optunas:
    import boto3
    from botocore.config import Config
    from optuna.artifacts import Boto3ArtifactStore

    limits = Config(connect_timeout=_SECONDS, read_timeout=6 * _SECONDS, retries={"total_max_attempts": 3})
    return Boto3ArtifactStore(bucket, client=boto3.client("s3", config=limits))


def _google(bucket: str) -> _Optunas:
    from google.cloud import storage
    from optuna.artifacts import GCSArtifactStore
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # which is for those who chose that class
        store: Any = GCSArtifactStore(bucket, client=storage.Client())
    found: _Optunas = store
    return found


@contextmanager
def _reporting(place: str, done: str) -> Iterator[None]:
    """Turn whatever a store's library raises into a :class:`StudyError`.

    Raises:
        StudyError: naming the place and what the library said.
    """
    from optuna.artifacts.exceptions import ArtifactNotFound

    try:
        yield
    except (StudyError, UsageError):
        raise
    except ArtifactNotFound as error:
        raise StudyError(
            f"a file of this study is not in the artifact store {place!r}; give the --artifacts that the other "
            f"machines use, or restore what was deleted there"
        ) from error
    except Exception as error:  # the libraries of S3 and of Google raise anything
        raise StudyError(
            f"the artifact store {place!r} cannot be {done} ({type(error).__name__}: {str(error).strip()[:300]}); "
            f"check the place, the network, and this user's credentials and permissions"
        ) from error
