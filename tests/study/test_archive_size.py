"""An archive is refused above a limit, whatever it claims; and no damaged study hides the others."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from autoprune.errors import AutopruneError, StudyError, UsageError
from autoprune.study.manage.archive_file import PREFIX, unpack_archive
from autoprune.study.manage.list import list_studies


def packed(path: Path, content: bytes, claimed: int) -> Path:
    """Write an archive of one file, which its manifest says has so many bytes."""
    manifest = {"format": 1, "study": "s", "files": {"trials.jsonl": {"bytes": claimed, "sha256": "0"}}}
    with tarfile.open(path, "w:gz") as archive:
        for name, held in (("manifest.json", json.dumps(manifest).encode()), ("trials.jsonl", content)):
            entry = tarfile.TarInfo(f"{PREFIX}/{name}")
            entry.size = len(held)
            archive.addfile(entry, io.BytesIO(held))
    return path


def unpack(file: Path, tmp_path: Path, limit: float) -> None:
    (tmp_path / "out").mkdir()
    unpack_archive(file, tmp_path / "out", limit)


def test_more_than_is_allowed_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    file = packed(tmp_path / "a.tar.gz", b"x", claimed=5_000_000_000)
    with pytest.raises(UsageError, match=r"unpacks to 5 GB, and at most 2 GB are allowed; .*--max-gb 5"):
        unpack(file, tmp_path, 2e9)
    assert list((tmp_path / "out").iterdir()) == []


def test_negative_sizes_make_no_room_for_others(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="is damaged"):
        unpack(packed(tmp_path / "a.tar.gz", b"x", claimed=-5), tmp_path, 2e9)


def test_a_file_that_unpacks_to_more_than_it_says_is_left(tmp_path: Path) -> None:
    file = packed(tmp_path / "a.tar.gz", bytes(80_000_000), claimed=10)
    with pytest.raises(AutopruneError, match=r"is damaged: it is not what the manifest says|more than it says"):
        unpack(file, tmp_path, 2e9)


def test_a_header_that_would_fill_the_memory_is_not_read(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 10**12
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(70):
            file.write(bytes(1_000_000))
    with pytest.raises(UsageError, match="unpacks to more than 64 MB, which is more than it says"):
        unpack(tmp_path / "a.tar.gz", tmp_path, 2e9)


@pytest.mark.parametrize(
    "content",
    ["", "not = [toml", "trials = 'x'\n", "a = " + "[" * 100_000, "[finetune]\nbatch_size = 1180591620717411303424\n"],
    ids=["empty", "no TOML", "a wrong type", "deep", "a huge number"],
)
def test_one_bad_study_does_not_hide_the_others(content: str, tmp_path: Path) -> None:
    for name in ("bad", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "resolved.toml").write_text(content if name == "bad" else "")
        (tmp_path / name / "study.db").write_bytes(b"no database, but long enough to look like one" * 30)
    found = list_studies(tmp_path)
    assert [each.name for each in found] == ["bad", "other"]
    assert all(each.fault for each in found)
    assert [set(each.to_json()) >= {"name", "error"} for each in found] == [True, True]
