"""Hypervolume over time is what it would be if each point were counted from all trials before it."""

from __future__ import annotations

import pytest
from fake_studies import DENSE, many_trials, measurement, trial

from autoprune.analysis import pareto
from autoprune.core.trial import Failed
from autoprune.report.content.hypervolume_history import POINTS, history

OBJECTIVES = ("accuracy", "mflops", "latency_ms")


@pytest.mark.parametrize("count", [3, 7, 40, 450])
def test_every_point_is_the_hypervolume_of_all_before(count: int) -> None:
    trials = many_trials(count)
    found = history(trials, OBJECTIVES, DENSE)
    assert len(found.finished) == min(count, POINTS)
    assert found.finished[-1] == count
    for place in {0, len(found.finished) // 2, -1}:
        end = found.finished[place]
        assert found.hypervolume[place] == pytest.approx(pareto.hypervolume(trials[:end], OBJECTIVES, DENSE))
        assert found.seconds[place] == pytest.approx(12.0 * end)
    assert list(found.hypervolume) == sorted(found.hypervolume)
    assert 0 < found.baselines <= found.hypervolume[-1]


def test_what_did_not_complete_adds_time_and_nothing_else() -> None:
    found = history([trial(0, Failed("E", "x")), trial(1, measurement(0.9, 40))], OBJECTIVES, DENSE)
    assert found.hypervolume[0] == 0 < found.hypervolume[1]
    assert found.seconds == (12.0, 24.0)
    assert history([], OBJECTIVES, DENSE).finished == ()
