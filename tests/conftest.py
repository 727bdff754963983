"""What every test shares: hypothesis without a deadline, because the machine may be busy; and a core for each process.

With ``pytest -n`` several processes run tests side by side, and OpenMP threads of all of them on the same cores would
make each many times slower. The environment reaches the programs that tests start, too.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell without job control starts `pytest &` with Ctrl-C ignored, and programs that tests interrupt inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def metrics_are_left_as_they_were() -> Iterator[None]:
    """Put the registry of metrics back, in which a test may give a name to another metric than the next one does."""
    from autoprune.core.metrics import METRICS

    before = dict(METRICS)
    yield
    METRICS.clear()
    METRICS.update(before)


@pytest.fixture
def process_is_left_as_it_was() -> Iterator[None]:
    """Put back what a command, or a runtime, may set for its whole process."""
    import torch

    threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    yield
    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def checks_in_this_process() -> Iterator[None]:
    """Let a pick check its files here: a fresh process takes seconds, and ``test_picked_files`` starts one."""
    import autoprune.export.publish
    from autoprune.export.verify import verify

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoprune.export.publish, "verify_in_new_process", verify)
        yield
