"""Every example in a docstring does what it says."""

from __future__ import annotations

import doctest
import gc
import importlib
import pkgutil
from collections.abc import Iterator

import pytest

import autoprune

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(autoprune.__path__, "autoprune.")
    if not module.name.endswith("__main__")
)


@pytest.fixture(scope="module")
def no_collection() -> Iterator[None]:
    """Keep the garbage of earlier tests from being collected meanwhile.

    Classes that SQLAlchemy has written take their source out of the cache of lines as they go, and doctest walks
    through that cache. One collection for all: with PyTorch loaded it takes a second.
    """
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder()
    examples = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(examples) >= 15
