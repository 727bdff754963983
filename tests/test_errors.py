"""The tree of errors: its drawing, its exit codes, and what the messages carry."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from autoprune import errors
from autoprune.errors import AutopruneError, NothingFitsError, SpecError, UnknownNameError, UsageError, did_you_mean

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]


def drawn_tree() -> dict[str, tuple[str | None, int]]:
    """Read the docstring's drawing: class → (parent, exit code), where a missing code is the parent's."""
    drawn: dict[str, tuple[str | None, int]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        matched = re.match(r"^    (?P<branch>[│├└─ ]*)(?P<name>\w+Error)\b\s*(?:exit (?P<code>\d))?", line)
        if not matched:
            continue
        depth = len(matched["branch"]) // 4
        path[depth:] = [matched["name"]]
        parent = path[depth - 1] if depth else None
        drawn[matched["name"]] = (parent, int(matched["code"]) if matched["code"] else drawn[str(parent)][1])
    return drawn


def test_the_drawing_holds_every_class_and_no_other() -> None:
    assert set(drawn_tree()) == {kind.__name__ for kind in CLASSES}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_parent_and_exit_code_are_as_drawn(kind: type[AutopruneError]) -> None:
    parent, code = drawn_tree()[kind.__name__]
    assert kind.exit_code == code
    assert kind.__base__ is not None
    assert kind.__base__.__name__ == (parent or "Exception")


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_names_what_went_wrong(kind: type[AutopruneError]) -> None:
    assert kind.__doc__
    assert kind.__doc__.split()[0] in {"A", "Code", "Data", "Every", "The"}


def test_an_unknown_name_brings_the_nearest_the_known_and_the_hint() -> None:
    error = UnknownNameError("importance criterion", "tailor", ["taylor", "l1"], "Or your own.")
    assert str(error) == (
        "no importance criterion named 'tailor'; did you mean 'taylor'?; known: l1, taylor. Or your own."
    )
    assert error.name == "tailor"
    assert isinstance(error, UsageError)


def test_an_unknown_name_where_nothing_is_known() -> None:
    assert str(UnknownNameError("study", "mine", [])) == "no study named 'mine'; known: none"


@pytest.mark.parametrize(("faults", "count"), [(["a: x"], "1 fault"), (["a: x", "b: y"], "2 faults")])
def test_a_spec_error_lists_its_faults(faults: list[str], count: str) -> None:
    error = SpecError("study.toml", iter(faults))
    assert error.faults == tuple(faults)
    assert str(error).splitlines() == [f"study.toml: {count}", *(f"  - {fault}" for fault in faults)]


@pytest.mark.parametrize("name", ["", "zzz", "ü"])
def test_nothing_near_means_no_suggestion(name: str) -> None:
    assert did_you_mean(name, ["taylor", "l1"]) == ""


@pytest.mark.parametrize(
    "error", [UnknownNameError("model", "a", ["b"]), SpecError("x.toml", ["lr: wrong"]), NothingFitsError("none")]
)
def test_errors_survive_a_process_boundary(error: AutopruneError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
