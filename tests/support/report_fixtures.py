"""What every test of the report begins with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_studies import BUDGET, view_of

from autoprune.study.view import StudyView


@pytest.fixture
def make_view(tmp_path: Path) -> Callable[..., StudyView]:
    """Return a maker of views in a fresh folder."""
    return lambda trials, budget=BUDGET, **changes: view_of(tmp_path / "study", trials, budget, **changes)
