"""Studies as things: listed, removed, copied, packed and unpacked, and refused without a trace where they must be."""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import filelock
import pytest
from click.testing import CliRunner, Result
from stored_fakes import FAILED, RUNNING, STOPPED, good, store
from study_fakes import OBJECTIVES

from autoprune.cli import main
from autoprune.errors import AutopruneError, StudyError, StudyLockedError, UsageError
from autoprune.study.artifact_store import ArtifactStore
from autoprune.study.folder import StudyFolder
from autoprune.study.ledger import Ledger
from autoprune.study.manage.archive_file import PREFIX
from autoprune.study.manage.copy import duplicate_study
from autoprune.study.manage.export import export_study
from autoprune.study.manage.import_archive import import_study
from autoprune.study.manage.list import list_studies
from autoprune.study.manage.remove import remove_study
from autoprune.study.shared_files import SharedFiles
from autoprune.study.spec_toml import read_resolved
from autoprune.study.storage_url import sqlite_url
from autoprune.study.view import open_view

KINDS = ("fake.tar.gz", "fake.zip")
OUTCOMES = [good(0.95), good(0.97), STOPPED, FAILED, RUNNING]


def run(*arguments: str | Path) -> Result:
    result = CliRunner(env={"COLUMNS": "160", "AUTOPRUNE_STORAGE": ""}).invoke(main, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of one study with trials of every kind, a recipe, and a file of its user's."""
    folder = store(tmp_path_factory.mktemp("shelf") / "fake", OUTCOMES)
    (folder.path / "study.toml").write_text("# my words\ntrials = 10\n")
    (folder.path / "notes.txt").write_text("mine")
    for name in ("front.csv", "search.log", "search.log.1", "picked/1/card.md", "teacher/a.safetensors"):
        (folder.path / name).parent.mkdir(exist_ok=True, parents=True)
        (folder.path / name).write_text("made")
    tensors(folder.dense_weights)
    about = {"architecture": json.dumps({"source": "/home/me/net.py:build"})}
    tensors(folder.path / "weights" / "1.safetensors", about)
    return folder.path.parent


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    """Return a copy of that folder, free to be changed."""
    return shutil.copytree(template, tmp_path / "studies")


def tensors(path: Path, metadata: dict[str, str] | None = None) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    path.parent.mkdir(exist_ok=True, parents=True)
    save_file({"conv1": np.arange(6.0, dtype="float32")}, path, metadata)


def tree(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder; SQLite's own beside the database come and go."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm")))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# -- list -------------------------------------------------------------------------------------------------------------


def test_the_list_says_how_each_study_stands(root: Path) -> None:
    (root / ".fake.1.tmp").mkdir()
    (root / ".fake.1.tmp" / "resolved.toml").write_text("half")
    with filelock.FileLock(root / "fake" / "study.lock"):
        (listed,) = list_studies(root)
        shown = run("studies", "--root", root).stdout
    found = listed.to_json()
    assert (found["finished"], found["trials"], found["best_trial"], found["searching"]) == (4, 10, 1, True)
    assert found["size_mb"] > 0.05
    assert "97.00 % at 49.00 MFLOPs" in shown
    assert "searching now" in shown
    assert json.loads(run("studies", "--root", root, "--json").stdout)["studies"][0]["searching"] is False


def test_a_damaged_database_does_not_hide_the_others_and_can_be_removed(root: Path) -> None:
    store(root / "other", [good()])
    for extra in (root / "fake").glob("study.db*"):
        extra.write_bytes(b"no database" * 900)
    shown = run("studies", "--root", root).stdout
    assert "other" in shown
    assert "study.db" in shown
    before = tree(root / "fake")
    for act in (("cp", "fake", "new"), ("export", "fake", root / "new.zip")):
        result = run("studies", "--root", root, *act)
        assert result.exit_code == 1
        assert "study.db" in result.stderr
    assert tree(root / "fake") == before
    assert sorted(path.name for path in root.iterdir()) == ["fake", "other"]
    assert run("studies", "--root", root, "rm", "fake", "--yes").exit_code == 0


def test_a_list_reads_trials_of_another_storage_if_it_is_told(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'all.db'}"
    store(tmp_path / "studies" / "fake", [good()], storage=url)
    assert "--storage" in list_studies(tmp_path / "studies")[0].fault
    assert list_studies(tmp_path / "studies", url)[0].to_json()["finished"] == 1


# -- rm ---------------------------------------------------------------------------------------------------------------


def test_what_searches_made_is_removed_and_what_the_user_put_there_stays(root: Path) -> None:
    result = run("studies", "rm", "fake", "--yes", "--root", root)
    assert result.exit_code == 0
    assert "MB freed; kept: notes.txt, study.toml" in result.stdout
    assert sorted(path.name for path in (root / "fake").iterdir()) == ["notes.txt", "study.toml"]
    assert (root / "fake" / "study.toml").read_text().startswith("# my words")
    assert "no stored study" in run("studies", "rm", "fake", "--yes", "--root", root).stderr


def test_what_machines_left_for_each_other_goes_where_the_place_is_given(root: Path, tmp_path: Path) -> None:
    place = tmp_path / "store"
    place.mkdir()
    folder, name = StudyFolder(root / "fake"), read_resolved(root / "fake" / "resolved.toml").name
    with Ledger(sqlite_url(folder.database), name, OBJECTIVES, folder.lock) as ledger:
        SharedFiles(ArtifactStore(str(place)), folder, name).send(ledger.facts, ledger.remember)
    (place / "of-another-study").write_bytes(b"stays")
    assert len(list(place.iterdir())) > 1
    shutil.copytree(root / "fake", root / "copied")
    left = run("studies", "rm", "copied", "--yes", "--root", root)
    assert "files lie in an artifact store; --artifacts PLACE would have removed them" in left.stdout
    found = run("studies", "rm", "fake", "--yes", "--artifacts", str(place), "--root", root)
    assert f"removed from {place}" in found.stdout
    assert [path.name for path in place.iterdir()] == ["of-another-study"]
    ArtifactStore(str(place)).remove("not-there")


def test_what_is_only_named_like_something_made_stays(root: Path) -> None:
    mine = ("front.ipynb", "weights/pretrained.safetensors")
    for name in mine:
        (root / "fake" / name).write_text("mine")
    (root / "fake" / "data").symlink_to(root / "nowhere")
    remove_study(root / "fake")
    assert [(root / "fake" / name).read_text() for name in mine] == ["mine", "mine"]
    assert (root / "fake" / "data").is_symlink()
    assert not (root / "fake" / "weights" / "1.safetensors").exists()


def test_a_folder_behind_a_link_goes_with_the_link(root: Path, tmp_path: Path) -> None:
    shutil.move(root / "fake", tmp_path / "elsewhere")
    (root / "fake").symlink_to(tmp_path / "elsewhere")
    remove_study(root / "fake", everything=True)
    assert not (tmp_path / "elsewhere").exists()
    assert not (root / "fake").is_symlink()


def test_all_of_a_study_goes_with_its_folder_if_that_is_said(root: Path) -> None:
    found = json.loads(run("studies", "rm", "fake", "--yes", "--all", "--json", "--root", root).stdout)
    assert found["removed"][0]["freed_mb"] > 0.05
    assert list(root.iterdir()) == []


def test_a_study_that_is_searched_is_not_removed_nor_is_any_named_beside_it(root: Path) -> None:
    store(root / "other", [good()])
    with filelock.FileLock(root / "fake" / "study.lock"):
        before = tree(root)
        result = run("studies", "rm", "other", "fake", "--yes", "--root", root)
        assert result.exit_code == 1
        assert "a process is searching the study in" in result.stderr
        with pytest.raises(StudyLockedError):
            remove_study(root / "fake")
        assert tree(root) == before


def test_nothing_is_removed_where_nobody_can_be_asked(root: Path) -> None:
    before = tree(root)
    result = run("studies", "rm", "fake", "--root", root)
    assert result.exit_code == 2
    assert "1 picked network among it" in result.stderr
    assert "--yes" in result.stderr
    assert tree(root) == before


def test_a_removal_that_was_killed_is_finished_by_the_next(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, count = Path.unlink, iter(range(99))

    def dies(self: Path, missing_ok: bool = False) -> None:
        if next(count) == 5:
            raise KeyboardInterrupt
        real(self, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", dies)
        with pytest.raises(KeyboardInterrupt):
            remove_study(root / "fake")
    assert list_studies(root) == [], "half of a study is none"
    remove_study(root / "fake")
    assert sorted(path.name for path in (root / "fake").iterdir()) == ["notes.txt", "study.toml"]


# -- cp ---------------------------------------------------------------------------------------------------------------


def test_a_copy_has_its_own_name_inside_and_goes_its_own_way(root: Path) -> None:
    assert run("studies", "cp", "fake", "copy", "--root", root).exit_code == 0
    view = open_view(root / "copy")
    assert view.spec.name == "copy"
    assert [t.number for t in view.trials] == [0, 1, 2, 3]
    assert set(tree(root / "copy")) == {
        *("study.toml", "study.db", "resolved.toml", "accepted_toml.json", "dense.json"),
        *("dense.safetensors", "weights/1.safetensors"),
    }
    remove_study(root / "fake")
    assert len(open_view(root / "copy").trials) == 4


def test_a_copy_beside_a_search_holds_what_was_committed(root: Path) -> None:
    with (
        filelock.FileLock(root / "fake" / "study.lock"),
        closing(sqlite3.connect(root / "fake" / "study.db")) as search,
    ):
        search.execute("DELETE FROM trial_values")  # a transaction that has not ended
        duplicate_study(root / "fake", root / "copy", "copy")
        search.rollback()
    assert open_view(root / "copy").trials == open_view(root / "fake").trials


@pytest.mark.parametrize(("target", "words"), [("other", "exists already"), ('a "b"', "cannot be called")])
def test_a_copy_takes_no_place_that_is_taken_and_no_name_that_cannot_be(root: Path, target: str, words: str) -> None:
    (root / "other").mkdir()
    (root / "other" / "study.toml").write_text("trials = 3\n")
    before = tree(root)
    result = run("studies", "cp", "fake", target, "--root", root)
    assert result.exit_code == 2
    assert words in result.stderr
    assert tree(root) == before


def test_a_database_that_is_damaged_within_is_not_copied(root: Path) -> None:
    database = root / "fake" / "study.db"
    content = bytearray(database.read_bytes())
    content[8192:40960] = b"\xff" * 32768
    database.write_bytes(content)
    with pytest.raises(StudyError, match=r"study\.db"):
        duplicate_study(root / "fake", root / "copy", "copy")
    assert not (root / "copy").exists()
    assert list(root.glob(".*")) == []


# -- export and import ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archives(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archives")
    for name in KINDS:
        export_study(template / "fake", folder / name)
    return folder


@pytest.fixture(params=KINDS)
def archive(archives: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return an archive of that study, of each kind, free to be spoilt."""
    return Path(shutil.copy(archives / str(request.param), tmp_path))


def members(file: Path) -> dict[str, bytes]:
    if file.suffix == ".zip":
        with zipfile.ZipFile(file) as packed:
            return {name: packed.read(name) for name in packed.namelist()}
    with tarfile.open(file) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]


def repack(file: Path, contents: dict[str, bytes], link: str = "") -> Path:
    """Write an archive with other members, of the same kind."""
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w") as packed:
            for name, content in contents.items():
                packed.writestr(name, content)
        return file
    with tarfile.open(file, "w:gz") as tar:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        if link:
            entry = tarfile.TarInfo(link)
            entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(entry)
    return file


def test_the_same_study_gives_the_same_bytes_and_so_does_what_is_imported(archive: Path, tmp_path: Path) -> None:
    again = tmp_path / f"again{''.join(archive.suffixes)}"
    import_study(archive, tmp_path / "elsewhere")
    export_study(tmp_path / "elsewhere" / "fake", again)
    assert again.read_bytes() == archive.read_bytes()


def test_an_archive_holds_no_absolute_path_and_no_pickle(root: Path, tmp_path: Path) -> None:
    from autoprune.study.spec_sections import DataSpec, ModelSpec

    model = ModelSpec(source="/home/me/ü/net.py:build", weights="/home/me/w.safetensors")
    data = DataSpec(source="imagefolder:/data/birds", root="/home/me/data")
    facts = {"fingerprint": {"model.source": model.source}, "data": {"name": "imagefolder:/data/birds"}}
    folder = store(root / "outside", [FAILED], model=model, data=data, facts=facts)
    about = {"architecture": json.dumps({"source": model.source, "num_classes": 3})}
    tensors(folder.path / "weights" / "1.safetensors", about)
    done = export_study(folder.path, tmp_path / "outside.zip")
    assert done.needs == {
        "model.source": "net.py:build",
        "model.weights": "w.safetensors",
        "data.source": "imagefolder:birds",
    }
    for name, content in members(done.file).items():
        for path in (b"/home", b"/data", b"secret/", str(root).encode()):
            assert path not in content, f"{name} holds {path!r}"
        assert not content.startswith(b"\x80")
    assert b'"source": "net.py:build"' in members(done.file)[f"{PREFIX}/weights/1.safetensors"].replace(b"\\", b"")
    place = {"model.source": "/there/net.py:build", "data.source": "imagefolder:/there/birds"}
    imported = import_study(done.file, tmp_path / "there", places=place)
    view = open_view(imported.folder)
    assert (view.spec.model.source, view.spec.data.source) == ("/there/net.py:build", "imagefolder:/there/birds")
    assert view.facts.fingerprint == {"model.source": "/there/net.py:build"}
    from safetensors.numpy import load_file

    assert load_file(imported.folder / "weights" / "1.safetensors")["conv1"].tolist() == [0, 1, 2, 3, 4, 5]


def test_an_imported_study_is_the_same_under_another_name(archive: Path, root: Path) -> None:
    result = run("studies", "import", archive, "--as", "theirs", "--root", root)
    assert result.exit_code == 0, result.output
    assert "measured on Abacus" in result.stdout
    mine, theirs = open_view(root / "fake"), open_view(root / "theirs")
    assert theirs.spec == mine.spec.model_copy(update={"name": "theirs"})
    assert [t.number for t in theirs.trials] == [0, 1, 2, 3]
    assert theirs.trials[:3] == mine.trials[:3]
    assert theirs.facts == mine.facts
    assert set(tree(root / "theirs")) == {
        *("study.db", "resolved.toml", "accepted_toml.json", "dense.json", "dense.safetensors"),
        "weights/1.safetensors",
    }


def test_a_trial_that_was_running_or_lost_is_asked_again_elsewhere(archive: Path, tmp_path: Path) -> None:
    from autoprune.study.folder import StudyFolder
    from autoprune.study.ledger import Ledger

    target = StudyFolder(import_study(archive, tmp_path / "b").folder)
    objectives = ("accuracy", "mflops", "latency_ms")
    with Ledger(sqlite_url(target.database), "fake", objectives, target.lock) as ledger:
        assert [candidate.number for candidate in ledger._open.known.lost] == [4]


def test_a_study_in_the_place_is_replaced_only_by_force_and_not_while_it_is_searched(archive: Path, root: Path) -> None:
    before = tree(root / "fake")
    with pytest.raises(UsageError, match="--force"):
        import_study(archive, root)
    with filelock.FileLock(root / "fake" / "study.lock"), pytest.raises(StudyLockedError):
        import_study(archive, root, force=True)
    assert tree(root / "fake") | {"study.lock": b""} == before | {"study.lock": b""}
    import_study(archive, root, force=True)
    assert {"notes.txt", "study.toml", "study.db"} <= set(tree(root / "fake"))
    assert "front.csv" not in tree(root / "fake")
    assert len(open_view(root / "fake").trials) == 4


def test_a_recipe_in_the_place_stays_and_counts_as_read(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "b" / "fake").mkdir(parents=True)
    (tmp_path / "b" / "fake" / "study.toml").write_text("trials = 77\n")
    import_study(archive, tmp_path / "b")
    from autoprune.cli.read_request import read_request

    assert read_request("fake", tmp_path / "b", {}).spec.trials == 10
    (tmp_path / "b" / "fake" / "study.toml").write_text("trials = 78\n")
    assert read_request("fake", tmp_path / "b", {}).spec.trials == 78, "a later edit counts"


def test_what_lies_in_the_place_of_no_study_stays_without_force(archive: Path, tmp_path: Path) -> None:
    mine = [tmp_path / "b" / "fake" / name for name in ("picked/1/model.safetensors", "weights/mine.safetensors")]
    for path in mine:
        path.parent.mkdir(parents=True)
        path.write_text("mine")
    import_study(archive, tmp_path / "b")
    assert [path.read_text() for path in mine] == ["mine", "mine"]
    assert (tmp_path / "b" / "fake" / "weights" / "1.safetensors").exists()
    assert len(open_view(tmp_path / "b" / "fake").trials) == 4


Change = Callable[[dict[str, bytes]], dict[str, bytes]]


def without(name: str) -> Change:
    return lambda held: {key: content for key, content in held.items() if key != f"{PREFIX}/{name}"}


def manifest(**changes: Any) -> Change:
    def change(held: dict[str, bytes]) -> dict[str, bytes]:
        about = {**json.loads(held[f"{PREFIX}/manifest.json"]), **changes}
        return {**held, f"{PREFIX}/manifest.json": json.dumps(about).encode()}

    return change


def beside(name: str) -> Change:
    return lambda held: {**held, name: b"evil"}


def spoilt_tensors(held: dict[str, bytes]) -> dict[str, bytes]:
    import hashlib

    content = b"\x08" + bytes(7) + b"\xff" * 8
    files = json.loads(held[f"{PREFIX}/manifest.json"])["files"]
    files["dense.safetensors"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return {**manifest(files=files)(held), f"{PREFIX}/dense.safetensors": content}


def spoilt_trials(held: dict[str, bytes]) -> dict[str, bytes]:
    import hashlib

    content = held[f"{PREFIX}/trials.jsonl"].replace(b'"COMPLETE"', b'"NONSENSE"')
    files = json.loads(held[f"{PREFIX}/manifest.json"])["files"]
    files["trials.jsonl"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return {**manifest(files=files)(held), f"{PREFIX}/trials.jsonl": content}


def other_space(held: dict[str, bytes]) -> dict[str, bytes]:
    """Return an archive whose second trial has its criterion from other choices than the first."""
    import hashlib

    lines = [json.loads(line) for line in held[f"{PREFIX}/trials.jsonl"].splitlines()]
    space = {"name": "CategoricalDistribution", "attributes": {"choices": ["a", "b"]}}
    for line, choices in zip(lines, (["a", "b"], ["a", "c"]), strict=False):
        line["distributions"]["other"] = {**space, "attributes": {"choices": choices}}
        line["params"]["other"] = "a"
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    files = json.loads(held[f"{PREFIX}/manifest.json"])["files"]
    files["trials.jsonl"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return {**manifest(files=files)(held), f"{PREFIX}/trials.jsonl": content}


def other_objectives(held: dict[str, bytes]) -> dict[str, bytes]:
    """Return an archive whose spec asks for one value more than its trials have."""
    import hashlib
    import re

    content = re.sub(
        rb'objectives = \[\s*"accuracy"', b'objectives = ["accuracy", "mparams"', held[f"{PREFIX}/resolved.toml"]
    )
    files = json.loads(held[f"{PREFIX}/manifest.json"])["files"]
    files["resolved.toml"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return {**manifest(files=files)(held), f"{PREFIX}/resolved.toml": content}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (beside("../evil.txt"), "refused as a whole"),
        (beside("/tmp/evil.txt"), "refused as a whole"),
        (beside(f"{PREFIX}/../evil.txt"), "refused as a whole"),
        (beside(f"{PREFIX}/weights/../../evil.safetensors"), "refused as a whole"),
        (beside(f"{PREFIX}/study.toml"), "refused as a whole"),
        (without("trials.jsonl"), "lacks trials.jsonl"),
        (without("dense.safetensors"), "lacks dense.safetensors"),
        (without("manifest.json"), "no archive of a study"),
        (lambda held: {**held, f"{PREFIX}/dense.json": b"{}"}, "not what the manifest says"),
        (manifest(format=2, autoprune="9.0"), "update autoprune"),
        (manifest(study="../evil"), "cannot be called"),
        (manifest(files=[]), "lacks|damaged|refused"),
        (manifest(needs=5), "manifest of .* is damaged"),
        (spoilt_trials, "trial 0 of the archive is damaged"),
        (other_space, "trial 1 of the archive is damaged: 'other' is from another space"),
        (other_objectives, "trial 0 of the archive is damaged: .* and the spec [34] objectives"),
        (lambda held: {}, "no archive of a study"),
    ],
)
def test_an_archive_that_is_not_right_is_refused_without_a_trace(
    archive: Path, tmp_path: Path, change: Change, words: str
) -> None:
    repack(archive, change(members(archive)))
    before = set(tmp_path.rglob("*"))
    with pytest.raises(AutopruneError, match=words):
        import_study(archive, tmp_path / "new")
    assert set(tmp_path.rglob("*")) == before


def test_weights_that_are_none_come_as_they_were(archive: Path, tmp_path: Path) -> None:
    """Whoever needs them says that they are damaged; an import reads no more of them than where paths may stand."""
    repack(archive, spoilt_tensors(members(archive)))
    import_study(archive, tmp_path / "new", places={"model.source": "net.py:other"})
    assert (tmp_path / "new" / "fake" / "dense.safetensors").read_bytes().endswith(b"\xff" * 8)


def test_a_link_in_an_archive_is_refused(archives: Path, tmp_path: Path) -> None:
    archive = Path(shutil.copy(archives / "fake.tar.gz", tmp_path))
    repack(archive, members(archive), link=f"{PREFIX}/scores.safetensors")
    with pytest.raises(StudyError, match="no regular file"):
        import_study(archive, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_a_file_that_was_cut_short_is_refused(archive: Path, tmp_path: Path, share: float) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content[: int(share * len(content))])
    result = run("studies", "import", archive, "--root", tmp_path / "new")
    assert result.exit_code in (1, 2)
    assert str(archive) in result.stderr
    assert not (tmp_path / "new").exists()


@pytest.fixture
def dead() -> int:
    """Return the number of a process that has ended."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def test_an_import_that_fails_or_was_killed_leaves_nothing(
    archive: Path, tmp_path: Path, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "new" / f".import.{dead}.tmp"
    left.mkdir(parents=True)
    (left / "half").write_text("")
    with monkeypatch.context() as patch:
        patch.setattr(
            "autoprune.study.manage.import_archive.write_resolved", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            import_study(archive, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    import_study(archive, tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["fake"]


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "-x", "<script>", "naïve", ""])
def test_a_name_that_a_study_cannot_have_is_refused(archive: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        import_study(archive, tmp_path / "new", name)
    assert not (tmp_path / "new").exists()


def test_an_export_replaces_nothing_unless_forced_and_says_which_endings_it_knows(root: Path) -> None:
    before = tree(root)
    (root.parent / "a.zip").write_text("mine")
    with pytest.raises(UsageError, match="--force"):
        export_study(root / "fake", root.parent / "a.zip")
    assert (root.parent / "a.zip").read_text() == "mine"
    with pytest.raises(UsageError, match=r"\.tar\.gz"):
        export_study(root / "fake", root.parent / "a.rar")
    export_study(root / "fake", root.parent / "a.zip", force=True)
    assert zipfile.is_zipfile(root.parent / "a.zip")
    assert sorted(path.name for path in root.parent.iterdir()) == ["a.zip", "studies"]
    assert tree(root) == before


def test_another_storage_serves_all_of_it(tmp_path: Path) -> None:
    url, root = f"sqlite:///{tmp_path / 'all.db'}", tmp_path / "studies"
    store(root / "fake", OUTCOMES, storage=url)
    storage = ("--root", root, "--storage", url)
    for act in (
        ("cp", "fake", "copy"),
        ("export", "fake", tmp_path / "a.zip"),
        ("import", tmp_path / "a.zip", "--as", "c"),
    ):
        assert run("studies", *act, *storage).exit_code == 0, act
    assert not list(root.rglob("study.db"))
    assert {name: len(open_view(root / name, url).trials) for name in ("fake", "copy", "c")} == {
        **{"fake": 4, "copy": 4, "c": 4}
    }
    assert "already" in run("studies", "import", tmp_path / "a.zip", "--as", "c", *storage).stderr
    assert run("studies", "rm", "copy", "--yes", *storage).exit_code == 0
    with closing(sqlite3.connect(tmp_path / "all.db")) as connection:
        assert sorted(connection.execute("select study_name from studies")) == [("c",), ("fake",)]
    assert "--storage" in run("studies", "cp", "fake", "d", "--root", root).stderr
    assert "give it after" in run("studies", "--storage", url, "rm", "fake", "--yes").stderr
    assert "stay where they are" in run("studies", "--root", root, "rm", "fake", "--yes").stdout
    wrong = run("studies", "rm", "c", "--yes", "--root", root, "--storage", f"sqlite:///{tmp_path / 'typo.db'}")
    assert "nor in the --storage given: they stay where they are" in wrong.stdout
    assert not (tmp_path / "typo.db").exists()


# -- names that people give -------------------------------------------------------------------------------------------


def test_a_folder_of_any_name_is_listed_watched_reported_exported_and_removed(tmp_path: Path) -> None:
    name = 'it\'s "mine" <script>alert(1) Übung 試験 100%'
    folder = store(tmp_path / "my studies" / name, [good(), FAILED]).path
    assert name in json.loads(run("studies", "--root", folder.parent, "--json").stdout)["studies"][0]["name"]
    assert run("studies", "--root", folder.parent).exit_code == 0
    assert run("watch", folder, "--once").exit_code == 0
    assert run("report", folder).exit_code == 0
    assert run("studies", "export", folder, tmp_path / "a b.zip").exit_code == 0
    assert run("studies", "cp", folder, "plain", "--root", tmp_path).exit_code == 0
    assert run("studies", "rm", folder, "--yes").exit_code == 0
    assert not folder.exists()


def test_a_study_of_failures_alone_travels(tmp_path: Path) -> None:
    store(tmp_path / "a" / "fake", [FAILED, FAILED])
    export_study(tmp_path / "a" / "fake", tmp_path / "a.zip")
    view = open_view(import_study(tmp_path / "a.zip", tmp_path / "b").folder)
    assert [type(t.outcome).__name__ for t in view.trials] == ["Failed", "Failed"]
    assert "secret" not in str(view.trials)
