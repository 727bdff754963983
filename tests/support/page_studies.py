"""A made-up study with everything the page shows: policies with blocks and masks, endings of each kind, odd text."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fake_studies import BUDGET, DENSE, many_trials, trial, view_of

from autoprune.core.measurement import Measurement
from autoprune.core.policy import GroupPolicy, MaskPolicy, PruningPolicy
from autoprune.core.trial import Failed, OverBudget, Stopped, Trial
from autoprune.study.spec import StudySpec
from autoprune.study.view import StudyView

GROUPS = {"conv1": 16, "layer1.0.conv1": 16, "layer2.0.conv1": 64, "layer2.1.conv1": 64}
# each would run, end a script, or break a line of JavaScript if it were not escaped
HOSTILE = "</script><script>window.broken=1</script><img src=x onerror=window.broken=1>\"'`\u2028 数字 ß &amp;"
FACTS = {
    "dense": DENSE.to_json(),
    "groups": {name: {"channels": count, "residual": False} for name, count in GROUPS.items()},
    "frozen": {"fc": {"channels": 10, "reason": "its channels are the network's output"}},
    "data": {"name": HOSTILE, "num_classes": 10, "sizes": {"train": 1078, "val": 540, "test": 360}, "licence": "CC"},
    "session:0": {
        "started": "2026-01-01T00:00:00+00:00",
        "budget": BUDGET.to_json(),
        "runtime": {"device": "cpu", "device_name": "A processor", "threads": 2, "precision": "bf16"},
        "versions": {"python": "3.11.7", "torch": "2.15.0"},
    },
}
SENSITIVITY = {
    "version": 1,
    "settings": {},
    "dense_loss": 0.31,
    "seconds": 1.0,
    "curves": {
        "conv1": {"full": 16, "rises": {"8": 0.2, "4": 0.9}},
        "layer1.0.conv1": {"full": 16, "rises": {"8": -0.001}},
        HOSTILE: {"full": 1, "rises": {"0": 0.5}},
    },
}


def policy(stream: random.Random) -> PruningPolicy:
    """Return any policy of the made-up network."""
    groups = {
        name: GroupPolicy(stream.randrange(count) / count, stream.choice(["fisher", "l2", HOSTILE]))
        for name, count in GROUPS.items()
    }
    mask = MaskPolicy("weight", "magnitude", {"layer2.0.conv1": 0.5}) if stream.random() < 0.2 else None
    return PruningPolicy(groups, 1, ("layer2.1",) if stream.random() < 0.3 else (), mask)


def mixed_trials(count: int = 60) -> list[Trial]:
    """Return completed trials of many policies, and one each that was stopped, failed and over budget."""
    stream = random.Random(1)
    found = [replace(one, candidate=replace(one.candidate, policy=policy(stream))) for one in many_trials(count)]
    cost = Measurement({"mflops": 60.0})
    others = [Stopped(HOSTILE, cost), Failed("ValueError", HOSTILE), OverBudget(cost, {"mflops": 0.2})]
    return [*found, *(trial(count + index, outcome) for index, outcome in enumerate(others))]


def rich_view(folder: Path, trials: Sequence[Trial], **changes: Any) -> StudyView:
    """Return a view of such a study, whose folder holds what was measured of its sensitivity."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sensitivity.json").write_text(json.dumps(SENSITIVITY), encoding="utf-8")
    spec = StudySpec().model_copy(update={"name": HOSTILE})
    return view_of(folder, trials, **{"facts": FACTS, "spec": spec, **changes})
