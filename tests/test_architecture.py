"""The house holds: every file stands on a floor and imports only from below; third parties come in by few doors.

A file that this page does not know fails until it is given a floor in :data:`FLOORS`, and a place in the
table of ``CONTRIBUTING.md``.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1] / "autoprune"
WORKSHOP = ("pruning", "cost", "training", "export")


@dataclass(frozen=True)
class Floor:
    """Hold the rooms of a floor: files, or folders whose files may import one another.

    Attributes:
        rooms: names below ``autoprune``.
        strangers: whether the rooms must not import one another.
    """

    rooms: tuple[str, ...]
    strangers: bool


# from the ground up; a file imports from lower floors, from its own room, and from its floor unless they are strangers
FLOORS = {
    "vocabulary": Floor(("errors", "metrics", "policy", "registry", "atomic"), strangers=False),
    "plan": Floor(
        (
            *("builtins", "folder", "sections", "spec", "spec_file", "recipes"),
            *("trial", "hits", "space", "pareto", "sensitivity", "rungs", "halving", "card", "formats"),
            *("keep", "disk"),
        ),
        strangers=False,
    ),
    "workshop": Floor(WORKSHOP, strangers=True),
    "joints": Floor(("evaluate", "study", "picked"), strangers=True),
    "acts": Floor(("search", "report", "pick"), strangers=True),
    "doors": Floor(
        (
            *("dense", "origins", "threshold", "rises", "latency_probes", "latency_runtimes", "build", "run", "finish"),
            *("unfinished", "exports", "verify", "deliver", "subject", "transfer", "inspection", "profiling"),
            *("testing", "progress", "session_log", "loggers", "shelf", "watching", "dashboard", "trial_weights"),
            *("cli", "__main__", ""),
        ),
        strangers=False,
    ),  # "": the façade
}

# libraries by the only rooms or files that import them; what is not named here is the standard library
DOORS = {
    "torch": (
        *(*WORKSHOP, "evaluate", "picked", "pick", "dense", "origins", "latency_runtimes", "build"),
        *("finish", "unfinished", "exports", "verify", "deliver", "subject", "transfer", "inspection", "profiling"),
        *("testing", "loggers.tensorboard", "trial_weights"),
    ),
    "torchvision": ("training",),
    "optuna": ("study",),
    "sqlalchemy": ("study",),
    "filelock": ("study", "cost.turns", "unfinished"),
    "mlflow": ("loggers.mlflow",),
    "moocore": ("pareto",),
    "numpy": ("pareto", "sensitivity", "hits", "rungs", "study", "cost", "training", "report.param_importance"),
    "scipy": ("study",),
    "pydantic": ("sections", "spec", "spec_file"),
    "pydantic_core": ("sections",),
    "tomllib": ("spec_file", "cli.options"),  # tomli before Python 3.11
    "tomli": ("spec_file", "cli.options"),
    "tomli_w": ("spec_file",),
    "safetensors": ("training", "picked", "dense", "export.plain", "unfinished", "verify", "trial_weights"),
    "sklearn": ("training",),
    "onnx": ("export",),
    "onnxscript": ("export",),
    "onnxruntime": ("export",),
    "PIL": ("training",),
    "jinja2": ("report.page",),
    "plotly": ("report.page",),
    "matplotlib": ("report.picture", "report.sensitivity_picture"),
    "optuna_dashboard": ("dashboard",),
    "rich": ("report.tables", "progress", "cli"),
    "click": ("cli",),
}

# what else a room must not import, although it stands below
AVOIDS = {"study": WORKSHOP} | dict.fromkeys(
    ("report", "progress", "session_log", "loggers", "shelf", "watching", "dashboard"), (*WORKSHOP, "evaluate")
)

HEAVY = (
    *("torch", "torchvision", "optuna", "sklearn", "scipy", "matplotlib", "moocore", "plotly", "jinja2"),
    *("onnx", "onnxruntime"),
)


@dataclass(frozen=True)
class Import:
    """Hold one import: ``module`` has no leading ``autoprune.`` if it is ours; ``late`` ones run in a function."""

    line: int
    module: str
    ours: bool
    late: bool
    only_typing: bool


def name_of(path: Path) -> str:
    """Return a file's module path below ``autoprune``; the façade's is empty."""
    return ".".join(path.relative_to(HOUSE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


FILES = {name_of(path): path for path in sorted(HOUSE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def imports_of(name: str) -> Iterator[Import]:
    """Return every import of a file, late ones and those for type checkers included."""
    package = name if FILES[name].name == "__init__.py" else name.rpartition(".")[0]
    pending: list[tuple[ast.AST, bool, bool]] = [(TREES[name], False, False)]
    while pending:
        node, late, typing = pending.pop()
        match node:
            case ast.Import(names):
                modules = [alias.name for alias in names]
            case ast.ImportFrom(module, names, 0):
                modules = [module_meant(module or "", alias.name) for alias in names]
            case ast.ImportFrom(module, names, level):
                parts = ["autoprune", *filter(None, package.split("."))]
                base = ".".join([*parts[: len(parts) - level + 1], *filter(None, [module])])
                modules = [module_meant(base, alias.name) for alias in names]
            case _:
                modules = []
        for module in dict.fromkeys(modules):
            top, _, rest = module.partition(".")
            ours = top == "autoprune"
            yield Import(getattr(node, "lineno", 0), rest if ours else top, ours, late, typing)
        late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            pending += [(child, late, True) for child in node.body] + [(child, late, typing) for child in node.orelse]
        else:
            pending += [(child, late, typing) for child in ast.iter_child_nodes(node)]


def module_meant(module: str, attribute: str) -> str:
    """Return the module that ``from module import attribute`` loads: the attribute itself if it is one of ours."""
    inner = f"{module}.{attribute}"
    return inner if inner.removeprefix("autoprune.") in FILES else module


def is_in(name: str, rooms: tuple[str, ...]) -> bool:
    """Return whether a module is one of these, or lies in one."""
    return any(name == room or (room and name.startswith(f"{room}.")) for room in rooms)


def home_of(name: str) -> tuple[int, str]:
    """Return the number of a module's floor, and its room."""
    for number, floor in enumerate(FLOORS.values()):
        for room in floor.rooms:
            if is_in(name, (room,)):
                return number, room
    pytest.fail(f"autoprune/{name.replace('.', '/')} stands on no floor; give it one in FLOORS")


def why_not(name: str, target: str) -> str | None:
    """Return why one of our files may not import another, or ``None`` if it may."""
    (floor, room), (other_floor, other_room) = home_of(name), home_of(target)
    if room == other_room:
        return None
    if other_floor > floor:
        return "stands on a higher floor"
    if other_floor == floor and list(FLOORS.values())[floor].strangers:
        return "is a stranger on the same floor"
    return "is to be avoided" if is_in(target, AVOIDS.get(room, ())) else None


@pytest.mark.parametrize("name", FILES, ids=lambda name: name or "façade")
def test_a_file_imports_only_from_below(name: str) -> None:
    found = [(one.line, one.module, why_not(name, one.module)) for one in imports_of(name) if one.ours]
    assert [fault for fault in found if fault[2]] == []


@pytest.mark.parametrize("name", FILES, ids=lambda name: name or "façade")
def test_third_parties_come_in_by_their_doors(name: str) -> None:
    allowed = {library for library, rooms in DOORS.items() if is_in(name, rooms)} | set(sys.stdlib_module_names)
    assert [(one.line, one.module) for one in imports_of(name) if not one.ours and one.module not in allowed] == []


@pytest.mark.parametrize("library", DOORS)
def test_every_door_is_used(library: str) -> None:
    unused = [
        room
        for room in DOORS[library]
        if not any(one.module == library for name in FILES if is_in(name, (room,)) for one in imports_of(name))
    ]
    assert unused == []


def test_every_room_is_there() -> None:
    rooms = [room for floor in FLOORS.values() for room in floor.rooms]
    assert [room for room in rooms if room not in FILES] == []


def test_modules_import_one_another_in_no_circle() -> None:
    at_import = {
        name: {one.module for one in imports_of(name) if one.ours and not one.late and not one.only_typing}
        for name in FILES
    }
    TopologicalSorter(at_import).prepare()  # raises CycleError, naming the circle


@pytest.mark.parametrize("name", FILES, ids=lambda name: name or "façade")
def test_a_file_is_short_has_no_assert_and_says_what_it_is(name: str) -> None:
    assert len(FILES[name].read_text(encoding="utf-8").splitlines()) <= 400
    assert [node.lineno for node in ast.walk(TREES[name]) if isinstance(node, ast.Assert)] == []
    assert FILES[name].stem not in ("utils", "util", "helpers", "common", "misc")
    assert ast.get_docstring(TREES[name])


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import autoprune", HEAVY),
        ("import autoprune.cli", HEAVY),
        ("from autoprune.cli import main; main(['--help'], standalone_mode=False)", HEAVY),
        ("import autoprune.spec_file, autoprune.recipes, autoprune.space, autoprune.pareto", HEAVY),
        ("import autoprune.study.ledger, autoprune.study.proposals", ("torch", "torchvision")),
        ("import autoprune.study.view, autoprune.report.report", ("torch", "torchvision")),
        ("import autoprune.watching, autoprune.dashboard, autoprune.session_log", ("torch", "torchvision")),
        ("import autoprune.shelf.export, autoprune.shelf.unpack, autoprune.shelf.remove", ("torch", "torchvision")),
    ],
)
def test_what_must_start_at_once_loads_nothing_heavy(code: str, absent: tuple[str, ...]) -> None:
    program = f"import sys; {code}; print(*sorted(set(sys.modules) & set({absent})), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], cwd=HOUSE.parent, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.strip()) == (0, "")
