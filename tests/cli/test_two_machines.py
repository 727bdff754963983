"""Two machines without a shared folder, told apart by their homes and folders, on one study in PostgreSQL."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import postgres
import pytest
from tiny import command, environment, write_study

from autoprune.core.trial import Completed
from autoprune.study.view import StudyView, open_view

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(560),
    pytest.mark.skipif(bool(postgres.why_not()), reason=postgres.why_not() or "-"),
]
PATIENCE = 200.0


@dataclass(frozen=True)
class Host:
    """A machine as far as autoprune can tell: a home, and a folder of the study that no other one sees."""

    home: Path
    storage: str
    artifacts: Path

    @property
    def folder(self) -> Path:
        return self.home / "studies" / "tiny"

    @property
    def environment(self) -> dict[str, str]:
        places = {"AUTOPRUNE_STORAGE": self.storage, "AUTOPRUNE_ARTIFACTS": str(self.artifacts)}
        return {**environment(), **places, "HOME": str(self.home)}

    def call(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments), env=self.environment, text=True, capture_output=True, timeout=PATIENCE, check=False
        )

    @contextmanager
    def searching(self) -> Iterator[subprocess.Popen[str]]:
        with (self.home / "said").open("w+", encoding="utf-8") as said:
            process = subprocess.Popen(
                command("search", self.folder), env=self.environment, text=True, stdout=said, stderr=said
            )
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    @property
    def said(self) -> str:
        return (self.home / "said").read_text(encoding="utf-8")

    def view(self) -> StudyView:
        return open_view(self.folder, self.storage)


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.2)


def two_hosts(root: Path, storage: str, trials: int, epochs: int = 8) -> tuple[Host, Host]:
    (root / "store").mkdir()
    one, other = (Host(root / name, storage, root / "store") for name in ("one", "other"))
    write_study(one.folder.parent, trials=trials, epochs=epochs)
    other.folder.mkdir(parents=True)
    shutil.copy(one.folder / "study.toml", other.folder)  # its code lies in one place, as an installed package's would
    return one, other


def finished_by(view: StudyView) -> set[int]:
    return {trial.session for trial in view.trials}


def test_both_search_one_is_killed_both_finish_and_either_reports_and_picks(tmp_path: Path) -> None:
    with postgres.server() as server:
        # long enough that one is not done with all of them before the other has begun
        one, other = two_hosts(tmp_path, server.new_database("two"), trials=30, epochs=60)
        with one.searching() as first, other.searching() as second:
            until(lambda: (one.folder / "prepared.json").exists() and (other.folder / "prepared.json").exists())
            until(lambda: len(finished_by(one.view())) == 2)
            first.kill()
            first.wait()
            with one.searching() as again:
                assert again.wait(PATIENCE) == 0, one.said
            assert second.wait(PATIENCE) == 0, other.said
        said = [other.said, one.said]
        view = other.view()
        assert [trial.number for trial in view.trials] == list(range(30))
        assert {0, 1} <= finished_by(view)
        assert postgres.PASSWORD not in "".join(said)
        for name in ("dense.safetensors", "dense.json", "scores.safetensors", "sensitivity.json"):
            assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes(), name
        assert other.call("report", other.folder).returncode == 0
        strange = next(
            trial
            for trial in view.trials
            if isinstance(trial.outcome, Completed)
            and not (other.folder / "weights" / f"{trial.number}.safetensors").exists()
            and view.machine_of(trial)
        )
        refused = other.call("pick", other.folder, "--trial", str(strange.number), "--finetune-epochs", "0")
        assert refused.returncode == 1
        assert f"evaluated on {socket.gethostname()}" in refused.stderr
        picked = [host.call("pick", host.folder, "--workers", "2", "--json") for host in (one, other)]
        assert [done.returncode for done in picked] == [0, 0], picked[1].stderr
        cards = [json.loads(done.stdout) for done in picked]
        assert cards[0]["trial"] == cards[1]["trial"]
        assert cards[0]["test"] == cards[1]["test"], "the machines picked the same network"


def test_the_second_waits_for_the_first_and_trains_no_dense_network(tmp_path: Path) -> None:
    with postgres.server() as server:
        one, other = two_hosts(tmp_path, server.new_database("wait"), trials=6)
        done = one.call("search", one.folder)
        assert done.returncode == 0, done.stderr
        assert "left " in done.stderr
        joined = other.call("search", other.folder, "--trials", "9")
        assert joined.returncode == 0, joined.stderr
        assert "fetched " in joined.stderr
        for word in ("training the dense network", "scoring channels", "measuring how sensitive", "scoring and timing"):
            assert word in done.stderr
            assert word not in joined.stderr
        teachers = [sorted(path.name for path in (host.folder / "teacher").glob("*")) for host in (one, other)]
        assert teachers[0] == teachers[1] != []


def test_a_store_that_cannot_be_used_is_one_line_before_anything_is_trained(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies")
    for place in (tmp_path / "none", "gopher://x"):
        done = subprocess.run(
            command("search", folder, "--artifacts", place),
            env={**os.environ, **environment()},
            text=True,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 2
        assert "--artifacts" in done.stderr
        assert "Traceback" not in done.stderr
        assert not (folder / "dense.safetensors").exists()
