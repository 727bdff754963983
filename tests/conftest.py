"""What every test shares: hypothesis without a deadline, because the machine may be busy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(scope="module")
def checks_in_this_process() -> Iterator[None]:
    """Let a pick check its files here: a fresh process takes seconds, and ``test_picked_files`` starts one."""
    import autoprune.deliver
    from autoprune.verify import verify

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoprune.deliver, "verify_in_new_process", verify)
        yield
