"""Foreign code may raise, crash or print: this process goes on and hears of it."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import ExportError
from autoprune.export import own_process
from autoprune.export.onnx import missing_packages, onnx_bytes
from autoprune.export.own_process import ForeignCodeError, in_own_process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks with PyTorch loaded")


def described(error: Exception) -> str:
    return f"said: {error}"


def test_what_it_makes_comes_back_whole_and_what_it_prints_does_not(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> bytes:
        sys.stdout.write("noise\n")
        os.write(2, b"more noise")
        return bytes(torch.arange(3_000_000, dtype=torch.uint8).numpy())

    assert in_own_process(work, described) == work()
    assert capfd.readouterr() == ("noise\n", "more noise")  # of the second call, here
    assert in_own_process(lambda: b"", described) == b""


def test_what_it_raises_is_described() -> None:
    def work() -> bytes:
        raise ValueError("nothing to make")

    with pytest.raises(ForeignCodeError, match=r"^said: nothing to make$"):
        in_own_process(work, described)


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "signal SIGSEGV"),
        (lambda: os.abort(), "signal SIGABRT"),
        (lambda: os._exit(3), "exit code 3"),
    ],
)
def test_how_it_crashed_is_said(end: object, said: str) -> None:
    def work() -> bytes:
        end()  # type: ignore[operator]
        return b"never"

    with pytest.raises(ForeignCodeError, match=f"it crashed .{said}"):
        in_own_process(work, described)


def test_what_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_process, "SECONDS", 0.5)
    children, fork = [], os.fork

    def remembered() -> int:
        children.append(fork())
        return children[-1]

    monkeypatch.setattr(os, "fork", remembered)

    def work() -> bytes:
        time.sleep(600)
        return b"late"

    with pytest.raises(ForeignCodeError, match=r"did not end within 0\.5 s"):
        in_own_process(work, described)
    (child,) = children
    with pytest.raises(ChildProcessError):
        os.waitpid(child, os.WNOHANG)  # nothing is left of it


def test_it_runs_products_after_threads_were_used_here() -> None:
    many = torch.rand(400, 400, generator=torch.Generator().manual_seed(0))
    expected = float((many @ many).sum())
    found = in_own_process(lambda: str(float((many @ many).sum())).encode(), described)
    assert float(found) == pytest.approx(expected, rel=1e-4)


class MaxNorm(nn.Linear):
    """Its forward crashes PyTorch's exporter."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data = torch.renorm(self.weight.data, 2, 0, 1.0)
        return super().forward(x)


@pytest.mark.skipif(bool(missing_packages()), reason="ONNX is not installed")
def test_a_network_that_crashes_the_exporter_is_an_export_error() -> None:
    with pytest.raises(ExportError, match=r"cannot be converted to ONNX: .*the latency runtime torch"):
        onnx_bytes(nn.Sequential(nn.Flatten(), MaxNorm(12, 3)).eval(), torch.zeros(1, 3, 2, 2))
