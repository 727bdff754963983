"""Fewer MFLOPs and no less time is said in words, with what has not been tried; anything else needs no note."""

from __future__ import annotations

from typing import Any

import pytest

from autoprune.core.measurement import Measurement
from autoprune.core.metrics import ACCURACY
from autoprune.report.content.not_faster import not_faster_notes
from autoprune.report.content.notes import latency_notes
from autoprune.report.content.rows import Row
from autoprune.study.spec import StudySpec
from autoprune.study.spec_sections import SpaceSpec
from autoprune.study.study_facts import SessionFacts


def row(share: float, latency: float, error: float = 0.02, *, is_best: bool = True, **ratios: float) -> Row:
    measured = Measurement({"mflops": 100 * share, "latency_ms": 2 * latency}, {"latency_ms": 2 * error})
    costs = ratios or {"mflops": share, "latency_ms": latency}
    return Row(7, "guided:lower", False, True, is_best, False, measured, costs, 0.0, None, ACCURACY)


def test_fewer_mflops_and_no_less_time_is_said_with_what_to_try() -> None:
    (note,) = not_faster_notes([row(0.4, 0.98)], StudySpec(space=SpaceSpec(depth=False)))
    assert note.startswith("trial 7 has 40 % of the dense network's MFLOPs and is not faster: it takes × 0.980 ± 0.020")
    assert "try --depth, which drops whole blocks, --round-to 16, a limit on latency" in note
    tried = StudySpec(space=SpaceSpec(depth=True, round_to=16))
    assert not_faster_notes([row(0.4, 1.3)], tried)[0].endswith("try a limit on latency (--budget-latency-ms)")


@pytest.mark.parametrize(
    "one",
    [
        row(0.4, 0.7),  # it is faster
        row(0.99, 1.0),  # nothing was to be saved
        row(0.4, 1.2, is_best=False),
        row(0.4, 1.2, mflops=0.4),  # latency was not measured
    ],
)
def test_nothing_is_said_otherwise(one: Any) -> None:
    assert not_faster_notes([one], StudySpec()) == []


def test_latency_in_int8_is_said_with_the_dense_network_s_in_float32() -> None:
    where = {"device": "cpu", "device_name": "a processor"}
    how = {"runtime": "onnxruntime", "format": "int8", "batch": 1, "threads": 1, "dense_fp32_ms": 2.4}
    stored = SessionFacts.from_json(SessionFacts(runtime=where, latency=how).to_json())
    (note,) = latency_notes([stored])
    assert note.startswith("latency was timed in onnxruntime, batch 1, 1 CPU thread, int8, on a processor")
    assert note.endswith("the dense network; in float32 that takes 2.400 ms")
    plain = {name: value for name, value in how.items() if name in ("runtime", "batch", "threads")}
    assert "1 CPU thread, float32, on" in latency_notes([SessionFacts(runtime=where, latency=plain)])[0]
