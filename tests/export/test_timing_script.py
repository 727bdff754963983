"""The program that times on another machine: it stands alone, answers about the files it got, and never breaks."""

from __future__ import annotations

import ast
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from onnx_files import product, request

from autoprune.cost.latency import median_stderr
from autoprune.export import timing_script
from autoprune.export.onnx import missing_packages
from autoprune.export.timing_command import read_document
from autoprune.export.timing_script import DENSE, PLAN, PRUNED, alternate, comparison, document_of, turn

pytestmark = pytest.mark.skipif(bool(missing_packages()), reason=f"not installed: {', '.join(missing_packages())}")
SCRIPT = Path(timing_script.__file__)


def test_it_answers_about_the_files_it_got_and_says_where() -> None:
    asked = request(dense=product(512), pruned=product(64), feed={"input": np.zeros((1, 64), np.float32)})
    fits = request(dense=product(64), pruned=product(64), feed={"input": np.ones((1, 64), np.float32)})
    failed = document_of(asked.archive, "pi")
    assert "dense.onnx" in failed["error"]  # which takes another width
    found, host = read_document(document_of(fits.archive, "pi"), fits)
    assert found.ratio > 0
    assert found.dense_ms > 0
    assert (host.name, bool(host.architecture), bool(host.onnxruntime)) == ("pi", True, True)


def test_a_larger_network_takes_longer() -> None:
    asked = request(dense=product(8), pruned=product(8), blocks=9, calls=50)
    assert 0.3 < read_document(document_of(asked.archive), asked)[0].ratio < 3  # one network twice
    dense, pruned = (
        [timing_script.session_call(product(n), "x", {"input": np.zeros((1, n), np.float32)}, 1)] for n in (2000, 8)
    )
    assert comparison(alternate(dense[0], pruned[0], 5, 20))["ratio"] < 0.5


def test_blocks_alternate_and_times_are_per_call() -> None:
    now, seen = [0.0], list[str]()

    def takes(name: str, seconds: float) -> None:
        seen.append(name)
        now[0] += seconds

    pairs = alternate(lambda: takes("d", 2.0), lambda: takes("p", 1.0), 3, 2, wall=lambda: now[0])
    assert "".join(seen) == "ddpp" * 3
    assert pairs == [(2.0, 1.0)] * 3
    had = lambda: now[0] / 4  # noqa: E731
    pairs = alternate(lambda: takes("d", 2.0), lambda: takes("p", 1.0), 3, 2, True, lambda: now[0], had)
    assert pairs == [(0.5, 0.25)] * 3


def test_the_median_and_its_error_are_those_of_autoprune() -> None:
    pairs = [(1.0, 0.5), (2.0, 1.5), (3.0, 0.6), (1.0, 0.9)]
    ratios = [after / before for before, after in pairs]
    found = comparison(pairs)
    assert found["ratio_stderr"] == median_stderr(ratios)
    assert found["ratio_range"] == [min(ratios), max(ratios)]


def test_what_cannot_be_timed_is_a_document_and_never_a_traceback() -> None:
    whole = request().archive()
    for size in (0, 700, 1100, 1800):  # in a header, in a file, between two
        assert "on standard input" in document_of(lambda size=size: whole[:size])["error"]
    assert "no whole tar" in document_of(lambda: b"rubbish" * 500)["error"]
    assert "dense.onnx" in document_of(request(dense=b"no network").archive)["error"]
    assert "asks for" in document_of(request(blocks=4).archive)["error"]

    def full() -> bytes:
        raise OSError(28, "No space left on device")

    assert "No space left" in document_of(full)["error"]


def test_a_package_that_is_missing_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "onnxruntime cannot be loaded" in document_of(request().archive)["error"]


def test_it_needs_python_3_9_numpy_and_onnxruntime_alone(tmp_path: Path) -> None:
    source = SCRIPT.read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 9))
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in named} <= set(sys.stdlib_module_names)
    copy = tmp_path / "autoprune_time.py"
    copy.write_text(source, encoding="utf-8")
    alone = (
        "import sys, runpy; sys.modules.update(torch=None, autoprune=None, onnx=None); "
        f"sys.argv[1:] = ['-', '--host', 'board']; runpy.run_path({str(copy)!r}, run_name='__main__')"
    )
    asked = request()
    done = subprocess.run(
        [sys.executable, "-c", alone], input=asked.archive(), capture_output=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert read_document(json.loads(done.stdout), asked)[1].name == "board"
    failed = subprocess.run([sys.executable, str(copy)], input=b"", capture_output=True, check=False)
    assert failed.returncode == 1
    assert "error" in json.loads(failed.stdout)


def test_who_times_here_waits_for_whoever_does_and_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autoprune.core.quiet import Quiet

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    quiet = Quiet("cpu")
    with turn(), quiet.timing(0.0, 0.0) as (has_turn, _):
        assert not has_turn
    with quiet.timing(0.0, 0.0) as (has_turn, is_quiet):
        assert has_turn
        assert is_quiet
    quiet.close()


def test_the_archive_holds_nothing_but_what_is_needed() -> None:
    with tarfile.open(fileobj=io.BytesIO(request().archive())) as archive:
        assert archive.getnames() == [PLAN, DENSE, PRUNED]  # zeros go as a shape
    ids = request(feed={"ids": np.array([[3, 4]])})
    with tarfile.open(fileobj=io.BytesIO(ids.archive())) as archive:
        assert archive.getnames() == [PLAN, DENSE, PRUNED, "inputs.npz"]
    members = timing_script.read_archive(ids.archive())
    assert timing_script.read_inputs(timing_script.read_plan(members), members)["ids"].tolist() == [[3, 4]]
