"""Names of four kinds, and every way in which one can fail to answer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from autoprune.core import registry as registry_module
from autoprune.core.builtin_names import DATA, IMPORTANCES, MODELS
from autoprune.core.registry import Registry, load_object
from autoprune.errors import UnknownNameError, UsageError

THINGS = Registry("thing", "autoprune.test_things", {"join": "os.path:join", "lost": "os.path:no_such_attribute"})


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Stand in for installed packages: what is put in is found as entry points, name → value."""
    installed: dict[str, str] = {}

    def entry_points(*, group: str) -> list[EntryPoint]:
        return [EntryPoint(name, value, group) for name, value in installed.items()]

    monkeypatch.setattr(registry_module, "entry_points", entry_points)
    return installed


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Be a user's working directory; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("autoprune_user_"):
            del sys.modules[name]


def test_a_builtin_is_found() -> None:
    assert THINGS.get("join")("a", "b") == str(Path("a/b"))


def test_a_module_attribute_is_found() -> None:
    assert THINGS.get("json.decoder:JSONDecoder.decode").__name__ == "decode"


def test_a_file_attribute_is_found_and_run_once(own_code: Path) -> None:
    (own_code / "mine.py").write_text(
        "from dataclasses import dataclass\n\n@dataclass\nclass Thing:\n    size: int = 3\n"
    )
    thing = THINGS.get("mine.py:Thing")
    assert thing().size == 3
    assert THINGS.get(f"{own_code / 'mine.py'}:Thing") is thing


def test_files_of_one_name_in_two_folders_are_two(own_code: Path) -> None:
    for folder in ("a", "b"):
        (own_code / folder).mkdir()
        (own_code / folder / "mine.py").write_text(f"where = {folder!r}\n")
    assert (THINGS.get("a/mine.py:where"), THINGS.get("b/mine.py:where")) == ("a", "b")


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"no thing named 'jion'; did you mean 'join'\?.*file\.py:attribute"):
        THINGS.get("jion")


@pytest.mark.parametrize("name", ["join", "pkg.mod:fn", "file.py:fn"])
def test_check_accepts_forms_without_importing(name: str) -> None:
    before = set(sys.modules)
    THINGS.check(name)
    assert set(sys.modules) == before


def test_check_refuses_an_unknown_name() -> None:
    with pytest.raises(UnknownNameError, match="no thing named 'nothing'"):
        THINGS.check("nothing")


def test_a_missing_file_is_named_in_full(own_code: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no file '.+absent\.py'") as caught:
        THINGS.get("absent.py:fn")
    assert str(own_code) in str(caught.value)


def test_a_file_that_raises_is_reported_and_may_be_mended(own_code: Path) -> None:
    (own_code / "broken.py").write_text("raise RuntimeError('not today')\n")
    with pytest.raises(UsageError, match=r"importing 'broken\.py' failed with RuntimeError: not today"):
        THINGS.get("broken.py:fn")
    (own_code / "broken.py").write_text("fn = 'a longer text, so that no stale bytecode is taken'\n")
    assert THINGS.get("broken.py:fn").startswith("a longer text")


def test_a_file_with_a_syntax_error_is_reported(own_code: Path) -> None:
    (own_code / "garbled.py").write_text("def fn(:\n")
    with pytest.raises(UsageError, match="SyntaxError"):
        THINGS.get("garbled.py:fn")


def test_a_missing_module_is_reported() -> None:
    with pytest.raises(UsageError, match=r"importing 'no_such_package\.mod' failed with ModuleNotFoundError"):
        THINGS.get("no_such_package.mod:fn")


def test_a_missing_attribute_names_the_nearest(own_code: Path) -> None:
    (own_code / "mine.py").write_text("def resnet():\n    pass\n")
    with pytest.raises(UnknownNameError, match=r"no attribute of 'mine.py' named 'resnett'; did you mean 'resnet'"):
        THINGS.get("mine.py:resnett")


def test_a_builtin_that_is_gone_is_reported() -> None:
    with pytest.raises(UnknownNameError, match="no_such_attribute"):
        THINGS.get("lost")


@pytest.mark.parametrize("reference", ["", ":", "module:", ":attribute", "module"])
def test_a_malformed_reference_says_the_form(reference: str) -> None:
    with pytest.raises(UsageError, match=r"is not of the form 'package\.module:attribute'"):
        load_object(reference, "thing")


def test_a_plugin_is_found_and_listed_after_the_builtins(plugins: dict[str, str]) -> None:
    plugins["basename"] = "os.path:basename"
    assert THINGS.names() == ["join", "lost", "basename"]
    assert THINGS.get("basename")("a/b") == "b"
    THINGS.check("basename")


def test_a_plugin_cannot_take_a_builtin_name(plugins: dict[str, str]) -> None:
    plugins["join"] = "os.path:basename"
    assert THINGS.names() == ["join", "lost"]
    assert THINGS.get("join").__name__ == "join"


@pytest.mark.parametrize("value", ["no_such_package.mod:fn", "os.path:no_such_attribute"])
def test_a_broken_plugin_is_named_and_harms_nobody_else(plugins: dict[str, str], value: str) -> None:
    plugins["broken"] = value
    with pytest.raises(UsageError, match=r"thing 'broken' comes from the plug-in .*which failed to load"):
        THINGS.get("broken")
    assert "broken" in THINGS.names()
    assert THINGS.get("join")


@pytest.mark.parametrize("registry", [IMPORTANCES, MODELS, DATA], ids=lambda registry: registry.kind)
def test_the_shipped_registries_have_builtins_and_a_group_of_their_own(registry: Registry) -> None:
    assert registry.group.startswith("autoprune.")
    assert all(ref.rpartition(":")[2] == name.replace("-", "_") for name, ref in registry.builtins.items())


SHIPPED = [(registry, name) for registry in (IMPORTANCES, MODELS, DATA) for name in registry.builtins]


@pytest.mark.parametrize(("registry", "name"), SHIPPED, ids=[name for _, name in SHIPPED])
def test_every_shipped_name_answers(registry: Registry, name: str) -> None:
    assert callable(registry.get(name))


def test_a_file_that_opens_a_missing_file_is_not_called_missing_itself(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("open('absent.csv')\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"importing .* failed with FileNotFoundError"):
        load_object(f"{tmp_path / 'mine.py'}:thing")
