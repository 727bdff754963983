"""``screened.jsonl``: read back as it was written, whole up to the line that a kill tore."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from autoprune.core.budget import Budget, Limit
from autoprune.core.counts import ChannelCounts
from autoprune.core.measurement import Measurement
from autoprune.core.screened import ScreenedNetwork, Screening
from autoprune.errors import StudyError
from autoprune.study.screened_file import add_record, begin_screening, read_screening

ONE = ScreenedNetwork(
    0,
    "curve",
    3,
    "mutated",
    ChannelCounts({"conv": 5, "fc": 2}, frozenset({"layer1.0"})),
    Budget({"mflops": Limit(12.5)}),
    Measurement({"mflops": 12.25, "latency_ms": 1.5}),
    0.25,
)
SEEN = replace(ONE, compensated=0.125, quality=Measurement({"accuracy": 0.875, "loss": 0.5}, {"accuracy": 0.02}))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    begin_screening(tmp_path / "screened.jsonl", {"seed": 0})
    return tmp_path / "screened.jsonl"


def test_rounds_of_looks_are_read_back(path: Path) -> None:
    add_record(path, Screening.round_record("curve", 6, [ONE.to_json()]))
    assert read_screening(path) == Screening({"seed": 0}, (ONE,), {"curve": 6}), "step 3 of 0 to 5 found something"
    other = replace(ONE, number=1, step=7)
    add_record(path, Screening.round_record("curve", 8, [SEEN.refit_record(), other.to_json()]))
    add_record(path, Screening.round_record("budget", 2, []))
    assert read_screening(path) == Screening({"seed": 0}, (SEEN, other), {"curve": 8, "budget": 2})


def test_the_file_of_an_older_study_is_read(path: Path) -> None:
    """There each look has a line of its own."""
    add_record(path, ONE.to_json())
    assert read_screening(path) == Screening({"seed": 0}, (ONE,), {"curve": 4})
    add_record(path, SEEN.refit_record())
    add_record(path, replace(ONE, number=1).to_json())
    assert read_screening(path) == Screening({"seed": 0}, (SEEN, replace(ONE, number=1)), {"curve": 4})


def test_a_torn_line_is_not_read_and_makes_way_for_the_next(path: Path) -> None:
    add_record(path, ONE.to_json())
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"number": 1, "part": "cur')
    assert read_screening(path).networks == (ONE,)
    add_record(path, SEEN.refit_record())
    assert path.read_bytes().startswith(whole + b'{"number": 0, "compensated"')
    assert read_screening(path).networks == (SEEN,)


def test_no_file_is_no_screening(tmp_path: Path) -> None:
    assert read_screening(tmp_path / "screened.jsonl") == Screening()


@pytest.mark.parametrize(
    "line",
    ["{}", "[]", "nonsense", '{"part": "curve", "looks": []}', '{"number": 5, "compensated": 1.0, "quality": null}'],
)
def test_a_damaged_line_is_told_with_what_to_do(path: Path, line: str) -> None:
    add_record(path, ONE.to_json())
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(StudyError, match=r"is damaged .*remove it, and the search looks at these networks again"):
        read_screening(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_cannot_be_written_is_told(path: Path) -> None:
    path.chmod(0o400)
    with pytest.raises(StudyError, match="cannot write"):
        add_record(path, ONE.to_json())
