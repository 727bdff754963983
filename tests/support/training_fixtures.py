"""Fixtures: one thread, and a witness that the global random state is left alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from training_toys import Toy, make_task, make_toy

from autoprune.tasks.in_memory import ArrayTask
from autoprune.training.device.runtime import Runtime


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def global_random_state_untouched(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before), "the global random state was moved"


@pytest.fixture
def runtime() -> Runtime:
    return Runtime()


@pytest.fixture
def task() -> ArrayTask:
    return make_task()


@pytest.fixture
def toy() -> Toy:
    return make_toy()
