"""A new study's precision: bf16 where that is faster, for this network and not only for this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.cli.read_request import read_request
from autoprune.search.setup.choose_runtime import with_working_runtime
from autoprune.search.setup.context import open_context
from autoprune.study.folder import StudyFolder
from autoprune.training.device import resolve_runtime

CODE = """
from torch import nn

def network():
    depthwise = nn.Conv2d(8, 8, 3, stride=STRIDE, groups=8)
    return nn.Sequential(nn.Conv2d(1, 8, 3), depthwise, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
"""


@pytest.mark.parametrize(
    ("stride", "asked", "precision"), [(2, "auto", "fp32"), (2, "bf16", "bf16"), (1, "auto", "bf16")]
)
def test_bf16_is_for_networks_that_train_faster_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stride: int, asked: str, precision: str
) -> None:
    monkeypatch.setattr(resolve_runtime, "has_fast_bf16", lambda: True)
    (tmp_path / "mine.py").write_text(CODE.replace("STRIDE", str(stride)))
    values = {
        "model": {"source": f"{tmp_path / 'mine.py'}:network"},
        "data": {"source": "digits"},
        "runtime": {"device": "cpu", "precision": asked},
    }
    spec, said = read_request("depthwise", tmp_path, values).spec, list[str]()
    context = with_working_runtime(open_context(spec, StudyFolder(tmp_path / "depthwise"), said.append))
    assert context.device.precision == context.spec.runtime.precision == precision
    told = [line for line in said if "1 is a depthwise convolution with a stride" in line]
    assert len(told) == (precision == "fp32")
