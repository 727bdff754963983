"""The archive of a study, ``.tar.gz`` or ``.zip``: how it is written, and how it is read without trusting it.

::

    autoprune-study/manifest.json    first: format, name, what it needs, and size and SHA-256 of every other file
    autoprune-study/resolved.toml    the spec
    autoprune-study/facts.json       what is stored about the study as a whole
    autoprune-study/trials.jsonl     one trial per line
    autoprune-study/dense.safetensors, scores.safetensors, weights/17.safetensors …

The same study gives the same bytes. No pickle is written or read, and no absolute path.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO, TypeAlias

from autoprune.core.json_values import DAMAGE, parse_json
from autoprune.errors import StudyError, UsageError
from autoprune.study.manage.bounded_file import BoundedFile
from autoprune.study.manage.file_inventory import CARRIED
from autoprune.study.manage.manifest import VERSION, Manifest, PackedFile

PREFIX = "autoprune-study"
MANIFEST, RESOLVED, FACTS, TRIALS = "manifest.json", "resolved.toml", "facts.json", "trials.jsonl"
ENDINGS = (".tar.gz", ".tgz", ".zip")
_DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, gzip.BadGzipFile, RuntimeError),
    NotImplementedError,  # a zip packed in a way that Python does not read
)
_Member: TypeAlias = tuple[str, int, IO[bytes]]
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip file can hold
_LARGEST_MANIFEST = 16_000_000
_LARGEST_FRAME = 64_000_000  # the manifest and the headers of all files


def write_archive(folder: Path, about: Manifest, target: Path) -> Manifest:
    """Pack a folder's files, in order, behind a manifest of them; return it.

    Args:
        folder: what to pack; every file in it.
        about: the manifest, its files left out.
        target: the archive, whose ending says which kind; replaced if it exists.

    Raises:
        OSError: if it cannot be written.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {name: PackedFile((folder / name).stat().st_size, _digest(folder / name)) for name in names}
    complete = replace(about, files=files)
    manifest = json.dumps(complete.to_json(), indent=1).encode()
    if target.name.endswith(".zip"):
        _write_zip(folder, names, manifest, target)
    else:
        _write_tar(folder, names, manifest, target)
    return complete


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _write_zip(folder: Path, names: list[str], manifest: bytes, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (MANIFEST, *names):
            entry = zipfile.ZipInfo(f"{PREFIX}/{name}", _EPOCH)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, manifest if name == MANIFEST else (folder / name).read_bytes())


def _write_tar(folder: Path, names: list[str], manifest: bytes, target: Path) -> None:
    import io

    with (
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in (MANIFEST, *names):
            entry = tarfile.TarInfo(f"{PREFIX}/{name}")  # no owner, no time
            content = io.BytesIO(manifest) if name == MANIFEST else (folder / name).open("rb")
            entry.size = len(manifest) if name == MANIFEST else (folder / name).stat().st_size
            with content:
                archive.addfile(entry, content)


def unpack_archive(file: Path, folder: Path, limit: float = math.inf) -> Manifest:
    """Unpack an archive into an empty folder, and return its manifest.

    Only what the manifest names is written, and only if its name is one that an archive may hold, so that nothing can
    land elsewhere; size and content are checked.

    Args:
        file: the archive.
        folder: empty.
        limit: most bytes that its files may have together.

    Raises:
        UsageError: if there is no such file, it is no archive of a study, or its files are larger than the limit.
        StudyError: if it is damaged, incomplete, or of a newer version.
    """
    if not file.is_file():
        raise UsageError(f"there is no file {str(file)!r}; expected an archive that `autoprune studies export` wrote")
    try:
        with _members(file) as (members, allow):
            manifest = _read_manifest(file, members)
            _check_size(file, manifest, limit)
            allow(manifest.unpacked)
            seen = [_unpack(name, size, content, manifest.files, folder, file) for name, size, content in members]
    except _DAMAGED as error:
        raise StudyError(f"{str(file)!r} is damaged: {error}; copy or export it again") from error
    missing = sorted(set(manifest.files) - set(seen)) or sorted({RESOLVED, FACTS, TRIALS} - set(seen))
    if missing:
        raise StudyError(f"{str(file)!r} is incomplete: it lacks {', '.join(missing)}; export the study again")
    return manifest


def _check_size(file: Path, manifest: Manifest, limit: float) -> None:
    if manifest.unpacked > limit:
        raise UsageError(
            f"{str(file)!r} unpacks to {manifest.unpacked / 1e9:.3g} GB, and at most {limit / 1e9:.3g} GB are allowed; "
            f"if you trust it, allow more with --max-gb {math.ceil(manifest.unpacked / 1e9)}"
        )


@contextmanager
def _members(file: Path) -> Iterator[tuple[Iterator[_Member], Callable[[int], None]]]:
    """Give the name, size and content of each regular file, in order, and what allows so many bytes to be unpacked.

    Before that, no more is unpacked than a manifest may take.

    Raises:
        UsageError: if the file is neither a tar nor a zip.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            yield ((one.filename, one.file_size, archive.open(one)) for one in archive.infolist()), lambda _: None
        return
    with BoundedFile(file, _LARGEST_FRAME) as unpacked:
        try:
            tar = tarfile.open(fileobj=unpacked, mode="r|")  # noqa: SIM115 - closed with the file
        except tarfile.ReadError as error:
            raise UsageError(
                f"{str(file)!r} is neither a tar nor a zip; expected what `autoprune studies export` wrote"
            ) from error
        yield ((entry.name, entry.size, _content(tar, entry, file)) for entry in tar), unpacked.allow


def _content(tar: tarfile.TarFile, entry: tarfile.TarInfo, file: Path) -> IO[bytes]:
    content = tar.extractfile(entry) if entry.isreg() else None
    if content is None:
        raise StudyError(f"{str(file)!r} holds {entry.name!r}, which is no regular file; it is refused as a whole")
    return content


def _read_manifest(file: Path, members: Iterator[tuple[str, int, IO[bytes]]]) -> Manifest:
    name, size, content = next(members, ("", 0, None))
    if name != f"{PREFIX}/{MANIFEST}" or content is None or size > _LARGEST_MANIFEST:
        raise UsageError(f"{str(file)!r} is no archive of a study: expected {PREFIX}/{MANIFEST} first, found {name!r}")
    try:
        data = dict(parse_json(content.read(size)))
        version, manifest = int(data["format"]), Manifest.from_json(data)
    except DAMAGE as error:
        raise StudyError(f"the manifest of {str(file)!r} is damaged: {type(error).__name__}: {error}") from error
    if version > VERSION:
        raise StudyError(
            f"{str(file)!r} has format {version}, of autoprune {manifest.autoprune or 'to come'}; "
            f"this version reads up to {VERSION}: update autoprune"
        )
    return manifest


def _unpack(name: str, size: int, content: IO[bytes], files: Mapping[str, PackedFile], folder: Path, file: Path) -> str:
    """Write one member into the folder; return its name."""
    short = name.removeprefix(f"{PREFIX}/")
    if short == name or not _may_hold(short) or short not in files:
        raise StudyError(
            f"{str(file)!r} holds {name!r}, which an archive of a study does not; it is refused as a whole"
        )
    target = folder / short
    if target.exists():
        raise StudyError(f"{str(file)!r} holds {name!r} twice; it is refused as a whole")
    target.parent.mkdir(exist_ok=True)
    digest, left = hashlib.sha256(), files[short].bytes
    with target.open("wb") as out, content:
        while left >= 0 and (block := content.read(1 << 20)):
            left -= len(block)
            digest.update(block)
            out.write(block)
    if left != 0 or digest.hexdigest() != files[short].sha256:
        raise StudyError(f"{short!r} in {str(file)!r} is damaged: it is not what the manifest says; export it again")
    return short


def _may_hold(name: str) -> bool:
    """Return whether an archive may hold a file of this name, relative to its top.

    >>> [_may_hold(name) for name in ("facts.json", "weights/3.safetensors", "weights/../../x.safetensors")]
    [True, True, False]
    """
    path = PurePosixPath(name)
    is_plain = path.as_posix() == name and ".." not in path.parts and not path.is_absolute() and "\\" not in name
    is_known = name in (RESOLVED, FACTS, TRIALS) or any(fnmatchcase(name, pattern) for pattern in CARRIED)
    return is_plain and is_known and len(path.parts) <= 2
