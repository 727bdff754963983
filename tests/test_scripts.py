"""Every script can be imported: what it takes from the package is still there."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.stem)
def test_a_script_finds_what_it_imports(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))  # they import one another
    monkeypatch.setattr(sys, "argv", [path.name])
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    assert module.__doc__


def test_two_timings_agree_or_the_machine_is_called_too_noisy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from bench_latency_table import Row, agreement

    def row(name: str, first: float, second: float, spread: float) -> Row:
        return Row(
            name, 1.0, 0, {"torch": first}, {"torch": spread}, again={"torch": second}, spread_again={"torch": 0.01}
        )

    told = agreement([row("uniform", 2.0, 2.02, 0.01), row("blocks", 2.0, 1.8, 0.01)], "torch")
    assert "the largest disagreement is -10.0 % (blocks, stated error 1.4 %); 1 of 2 within 5 %, 1 within two" in told
    assert "too noisy to tell: the ratios of blocks" in agreement([row("blocks", 2.0, 2.0, 0.06)], "torch")
