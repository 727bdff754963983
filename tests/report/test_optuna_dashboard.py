"""optuna-dashboard on a copy: on this machine alone, never on the study, and gone without a trace."""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from stored_fakes import FAILED, good, store

from autoprune.cli import main
from autoprune.errors import StudyError
from autoprune.report.optuna_dashboard import HOST, copied, served
from autoprune.study.view import open_view


def fetch(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=20) as answer:
        return json.loads(answer.read())


def test_without_the_extra_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    result = CliRunner().invoke(main, ["dashboard", str(store(tmp_path / "s", [good()]).path)])
    assert result.exit_code == 2
    assert "pip install 'autoprune[dashboard]'" in result.output


def test_it_shows_a_copy_that_is_removed(tmp_path: Path) -> None:
    pytest.importorskip("optuna_dashboard", reason="needs pip install 'autoprune[dashboard]'")
    view = open_view(store(tmp_path / "s", [good(), FAILED]).path)
    before = view.folder.database.read_bytes()
    with copied(view) as url, served(url, 0) as (address, serve):
        threading.Thread(target=serve, daemon=True).start()
        assert address.startswith(f"http://{HOST}:")
        (study,) = fetch(f"{address}api/studies")["study_summaries"]
        assert study["study_name"] == "fake"
        assert len(fetch(f"{address}api/studies/{study['study_id']}?after=0")["trials"]) == 2
        urllib.request.urlopen(
            urllib.request.Request(f"{address}api/studies/{study['study_id']}", method="DELETE"), timeout=20
        ).close()
        copy = Path(url.removeprefix("sqlite:///"))
        assert copy.exists()
    assert not copy.parent.exists()
    assert view.folder.database.read_bytes() == before
    assert len(open_view(view.folder.path).trials) == 2


def test_trials_of_another_storage_are_copied_too(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'all.db'}"
    view = open_view(store(tmp_path / "s", [good()], storage=storage).path, storage)
    with copied(view, storage) as url:
        assert len(open_view(view.folder.path, url).trials) == 1


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    pytest.importorskip("optuna_dashboard", reason="needs pip install 'autoprune[dashboard]'")
    view = open_view(store(tmp_path / "s", [good()]).path)
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        with copied(view) as url, pytest.raises(StudyError, match="--port"), served(url, taken.getsockname()[1]):
            pass


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_and_a_polite_kill_end_it_cleanly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: signal.Signals
) -> None:
    pytest.importorskip("optuna_dashboard", reason="needs pip install 'autoprune[dashboard]'")
    folder, before = store(tmp_path / "s", [good()]), signal.getsignal(signal.SIGTERM)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    held: list[Path] = []

    def serve(_: Any) -> None:
        held.extend((tmp_path / "temporary").rglob("study.db"))
        signal.raise_signal(by)

    monkeypatch.setattr("autoprune.report.optuna_dashboard._Server.serve_forever", serve)
    try:
        result = CliRunner().invoke(main, ["dashboard", str(folder.path), "--port", "0"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert result.exit_code == 0
    assert len(held) == 1
    assert list((tmp_path / "temporary").iterdir()) == []
    assert f"fake: http://{HOST}:" in result.stdout
    assert "knows nothing about budgets" in result.stdout
    assert result.stderr == "dashboard stopped; the copy is removed\n"
