"""How long a network takes, as a measurement: timed against the study's dense network."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from torch import nn

from autoprune.core.measurement import Measurement
from autoprune.cost.latency import LatencyComparison, NetworkTimer, measured_latency


@dataclass(frozen=True)
class LatencyMeter:
    """The clock of one study.

    Attributes:
        timer: times networks against the dense one.
        dense: the dense network, placed as the timer has it.
        dense_ms: the study's reference latency of the dense network, in milliseconds.
    """

    timer: NetworkTimer
    dense: nn.Module
    dense_ms: float

    @property
    def host(self) -> str:
        """Return the name of the machine that times."""
        return self.timer.host.name if self.timer.host else platform.node()

    def time(self, network: nn.Module) -> Measurement:
        """Return the latency of a pruned network, timed in float32 against the dense one.

        Args:
            network: placed like the dense one; left in eval mode.

        Raises:
            NonFiniteError: if the clock did not advance.
            ExportError, ModelError: if the latency runtime does not take the network.
            TimingError: if another machine is to time it, and does not.
        """
        self.dense.eval()
        return self.latency(self.timer.compare(network.eval()))

    def latency(self, comparison: LatencyComparison) -> Measurement:
        """Return the latency of a pruned network that was timed against the dense one.

        Raises:
            NonFiniteError: if the clock did not advance.
        """
        latency_ms, stderr_ms = measured_latency(comparison, self.dense_ms)
        return Measurement({"latency_ms": latency_ms}, {"latency_ms": stderr_ms})
