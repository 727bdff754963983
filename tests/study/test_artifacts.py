"""What one machine prepares comes to others through an artifact store; two folders stand for two machines."""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from study_fakes import OBJECTIVES

from autoprune.errors import LeaseLostError, StudyElsewhereError, StudyError, StudyMismatchError, UsageError
from autoprune.study import await_preparation
from autoprune.study.artifact_store import ArtifactStore
from autoprune.study.await_preparation import Awaited, wait_for_preparation
from autoprune.study.folder import StudyFolder
from autoprune.study.ledger import Ledger
from autoprune.study.preparation import PreparationLease
from autoprune.study.shared_files import SharedFiles, shared_in
from autoprune.study.storage_url import sqlite_url

NAME = "fake"
GRACE = 0.6


@pytest.fixture
def hosts(tmp_path: Path) -> tuple[StudyFolder, StudyFolder]:
    for name in ("one", "other", "store"):
        (tmp_path / name).mkdir()
    return StudyFolder(tmp_path / "one"), StudyFolder(tmp_path / "other")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path / "both.db")


@pytest.fixture
def store(tmp_path: Path, hosts: object) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"))


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(await_preparation, "_LOOK_SECONDS", 0.01)


def opened(folder: StudyFolder, url: str) -> Ledger:
    return Ledger(url, NAME, OBJECTIVES, folder.lock, grace_seconds=GRACE)


def prepared(folder: StudyFolder) -> dict[str, bytes]:
    """Write files as a preparation leaves them; return their content by name."""
    files = {
        "resolved.toml": b"name = 'fake'\n",
        "dense.safetensors": b"weights" * 1000,
        "dense.json": b"{}",
        "teacher/teacher-ab12-seed0-batch32-epoch0.safetensors": b"answers",
    }
    for name, content in files.items():
        (folder.path / name).parent.mkdir(exist_ok=True)
        (folder.path / name).write_bytes(content)
    (folder.path / "study.toml").write_bytes(b"the user's own")
    return files


def waited(folder: StudyFolder, url: str, said: list[str] | None = None) -> Awaited | None:
    return wait_for_preparation(url, NAME, folder, ([] if said is None else said).append, GRACE)


def test_whoever_comes_first_prepares_and_the_others_wait_for_it_and_get_its_files(
    hosts: tuple[StudyFolder, StudyFolder], url: str, store: ArtifactStore
) -> None:
    one, other = hosts
    assert waited(one, url) is None, "there is no study yet"
    with opened(one, url) as ledger:
        ledger.preparation.claim(False, shares=True)
        with opened(other, url) as late, pytest.raises(StudyElsewhereError, match="--artifacts"):
            late.preparation.claim(False, shares=True)
        said, found = list[str](), list[Awaited | None]()
        waiting = threading.Thread(target=lambda: found.append(waited(other, url, said)))
        waiting.start()
        time.sleep(2 * GRACE)
        assert waiting.is_alive(), "the one that prepares is alive"
        files = prepared(one)
        sent = SharedFiles(store, one, NAME).send(ledger.facts, ledger.preparation.remember, replaces=True)
        assert sent == sum(map(len, files.values()))
        ledger.preparation.end()
        waiting.join(10)
    assert len(said) == 1
    assert "which prepares the study" in said[0]
    (there,) = found
    assert there is not None
    assert SharedFiles(store, other, NAME).fetch(there.facts) == sent
    assert {name: (other.path / name).read_bytes() for name in files} == files
    assert not (other.path / "study.toml").exists()
    assert other.has_begun
    assert SharedFiles(store, other, NAME).fetch(there.facts) == 0, "nothing is fetched twice"
    with opened(other, url) as ledger:
        ledger.preparation.claim(other.has_begun, shares=True)
        checked = ledger.preparation.check()
        assert checked is not None
        assert checked.state == "done"
        assert SharedFiles(store, other, NAME).send(ledger.facts, ledger.remember) == 0


def test_a_preparation_that_stands_still_is_taken_over_and_its_worker_told_when_it_wakes_up(
    hosts: tuple[StudyFolder, StudyFolder], url: str, store: ArtifactStore
) -> None:
    one, other = hosts
    with opened(one, url) as asleep:
        asleep.preparation.claim(False, shares=True)
        asleep.preparation._stop()  # as a stopped process, or a machine that is gone
        found = waited(other, url)
        assert found is not None
        assert found.stale is not None
        with opened(other, url) as ledger:
            ledger.preparation.claim(False, shares=True, stale=found.stale)
            with opened(one, url) as third, pytest.raises(StudyElsewhereError):
                third.preparation.claim(False, shares=True, stale=replace(found.stale, count=7))
            prepared(one)
            with pytest.raises(LeaseLostError, match="another machine prepares"):
                SharedFiles(store, one, NAME).send(asleep.facts, asleep.preparation.remember, replaces=True)
            with pytest.raises(LeaseLostError):
                asleep.preparation.end()
            assert shared_in(ledger.facts) == {}
            prepared(other)
            SharedFiles(store, other, NAME).send(ledger.facts, ledger.preparation.remember, replaces=True)
            ledger.preparation.end()
    again = waited(one, url)
    assert again is not None
    assert again.stale is None
    assert PreparationLease.in_facts(again.facts).state == "done"  # type: ignore[union-attr]


def test_a_preparation_that_fails_is_left_to_others_at_once(hosts: tuple[StudyFolder, StudyFolder], url: str) -> None:
    one, other = hosts

    def interrupted() -> None:
        with opened(one, url) as ledger:
            ledger.preparation.claim(False, shares=True)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert waited(one, url) is None, "the first machine goes on by itself"
    found = waited(other, url)
    assert found is not None
    assert found.stale is not None
    assert found.stale.state == "left"


def test_a_study_that_began_without_a_store_says_so(hosts: tuple[StudyFolder, StudyFolder], url: str) -> None:
    one, other = hosts
    with opened(one, url) as ledger:
        ledger.preparation.claim(False)
    with pytest.raises(StudyError, match="without --artifacts"):
        waited(other, url)
    with opened(one, url) as ledger:
        ledger.preparation.claim(True, shares=True)
        ledger.preparation.end()  # which the first machine does as soon as it is given a store
    assert waited(other, url) is not None


def test_another_network_than_the_study_s_is_refused(
    hosts: tuple[StudyFolder, StudyFolder], url: str, store: ArtifactStore
) -> None:
    one, other = hosts
    prepared(one)
    prepared(other)
    with opened(one, url) as ledger:
        ledger.preparation.claim(True, shares=True)
        SharedFiles(store, one, NAME).send(ledger.facts, ledger.preparation.remember)
        SharedFiles(store, other, NAME).check_same_networks(ledger.facts)
        other.dense_weights.write_bytes(b"others")
        with pytest.raises(StudyMismatchError, match="another network"):
            SharedFiles(store, other, NAME).check_same_networks(ledger.facts)


def test_a_file_that_is_damaged_or_missing_in_the_store_is_not_taken(
    hosts: tuple[StudyFolder, StudyFolder], store: ArtifactStore, tmp_path: Path
) -> None:
    one, other = hosts
    prepared(one)
    facts: dict[str, object] = {}
    SharedFiles(store, one, NAME).send(facts, facts.__setitem__)
    place = tmp_path / "store" / shared_in(facts)["dense.safetensors"].id
    whole = place.read_bytes()
    place.write_bytes(whole[:-1])
    with pytest.raises(StudyError, match="is damaged: it has 6999 bytes"):
        SharedFiles(store, other, NAME).fetch(facts)
    place.unlink()
    with pytest.raises(StudyError, match="is not in the artifact store"):
        SharedFiles(store, other, NAME).fetch(facts)
    assert not other.has_begun
    place.write_bytes(whole)
    SharedFiles(store, other, NAME).fetch(facts)
    assert other.has_begun


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/passwd", "teacher/../../evil", "study.toml", "weights/1.safetensors"]
)
def test_a_name_that_is_none_of_ours_is_never_written(
    hosts: tuple[StudyFolder, StudyFolder], store: ArtifactStore, name: str
) -> None:
    store.write("x", b"x")
    facts = {f"artifact:{name}": {"id": "x", "sha256": "0" * 64, "bytes": 1}}
    assert SharedFiles(store, hosts[1], NAME).fetch(facts) == 0
    assert list(hosts[1].path.iterdir()) == []


def test_damaged_facts_are_said() -> None:
    with pytest.raises(StudyError, match=r"'dense.json'.*is damaged"):
        shared_in({"artifact:dense.json": {"id": "x"}})
    with pytest.raises(StudyError, match="preparation is damaged"):
        PreparationLease.in_facts(json.loads('{"preparation": {"worker": "me"}}'))


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("", "is no folder here"),
        ("/no/such/folder", "Make the folder first"),
        ("ftp://host/folder", "is no place that is known"),
        ("s3://", "is no place that is known"),
    ],
)
def test_a_place_that_is_none_is_refused(place: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ArtifactStore(place)


@pytest.mark.parametrize(("place", "module", "extra"), [("s3://b/p", "boto3", "s3"), ("gs://b", "google.cloud", "gcs")])
def test_a_library_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, place: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"autoprune\[{extra}\]"):
        ArtifactStore(place)


def test_a_folder_that_cannot_be_written_is_said_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(str(tmp_path))
    store.check()
    assert list(tmp_path.iterdir()) == [], "nothing of the probe stays"
    tmp_path.rmdir()
    with pytest.raises(StudyError, match=r"cannot be written \(FileNotFoundError"):
        store.check()
