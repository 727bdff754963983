"""The house holds: who may import whom, package by package, and third parties come in by few doors.

Every package and sub-package has its row in :data:`MAY_USE`. A file that is in none fails until its package is given
one, and ``CONTRIBUTING.md`` draws the same table.
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
# package or sub-package → what else it may import from; within itself it may import anything. "": the façade
MAY_USE: dict[str, tuple[str, ...]] = {
    "errors": (),
    "core": ("errors",),
    "analysis": ("errors", "core"),
    # strangers to one another
    "models.copying": ("errors",),  # everybody copies networks
    "models.calling": ("errors", "core"),  # and calls them
    "tasks": ("errors", "core", "models.calling", "models.copying"),
    "models": ("errors", "core", "models.calling", "models.copying"),
    "cost": ("errors", "core", "models.calling", "models.copying"),
    "pruning.layers": ("errors", "core"),
    "pruning.tracing": ("core", "models.calling", "pruning.layers"),
    "pruning.masks": ("errors", "core", "models.calling", "models.copying"),
    "pruning": ("errors", "core", "models.calling", "models.copying", "pruning.layers", "pruning.tracing"),
    "pruning.compensation": ("models.calling", "pruning", "pruning.layers", "pruning.tracing"),
    "pruning.criteria": (
        *("errors", "core", "models.calling", "models.copying", "pruning", "pruning.layers", "pruning.compensation"),
    ),
    # what is built with them
    "training.device": ("errors", "core", "models.calling"),
    "training": ("errors", "core", "tasks", "models.calling", "models.copying", "training.device"),
    "export": (
        *("errors", "core", "tasks", "models", "models.calling", "models.copying", "pruning", "pruning.layers"),
        *("pruning.masks", "cost"),
    ),
    # the stored study: no torch
    "study": ("errors", "core"),
    "study.manage": ("errors", "core", "analysis", "study"),
    "loggers": ("errors", "core", "analysis", "study"),
    # the search
    "search.proposals": ("errors", "core", "analysis", "study"),  # what looks foretell
    "search.evaluation": (
        *("errors", "core", "analysis", "tasks", "models", "models.copying", "cost", "pruning", "pruning.masks"),
        *("models.calling", "pruning.compensation", "training", "training.device", "study"),
    ),
    "search.setup": (
        *("errors", "core", "tasks", "models", "models.calling", "models.copying", "cost", "pruning", "pruning.layers"),
        *(
            "pruning.masks",
            "pruning.tracing",
            "pruning.criteria",
            "pruning.compensation",
            "training",
            "training.device",
            "export",
            "study",
        ),
        *("search.evaluation", "search.proposals"),
    ),
    # hundreds of networks, looked at without training
    "search.screening": (
        *("errors", "core", "analysis", "pruning", "training", "study"),
        *("search.evaluation", "search.proposals", "search.setup"),
    ),
    "search": (
        *("errors", "core", "analysis", "tasks", "pruning", "export", "study", "loggers"),
        *("search.evaluation", "search.proposals", "search.screening", "search.setup"),
    ),
    # strangers to one another
    "pick": (
        *("errors", "core", "analysis", "tasks", "models", "models.calling", "models.copying", "cost", "pruning"),
        *(
            "pruning.masks",
            "training",
            "training.device",
            "export",
            "study",
            "loggers",
            "search",
            "search.evaluation",
            "search.setup",
        ),
        *("search.proposals", "search.screening"),  # a network for a budget that no trial lies near
    ),
    "report.content": ("errors", "core", "analysis", "study"),
    "report.plots": ("core", "analysis", "report.content"),
    "report.page": ("core", "analysis", "study", "report.content"),
    "report": (
        *("errors", "core", "study", "study.manage", "loggers", "report.content", "report.page"),
        "report.plots",
    ),
    # the ways in
    "testing": ("core", "tasks", "models.copying", "pruning", "pruning.layers", "export", "loggers"),
    "cli": (
        *("errors", "core", "analysis", "cost", "training.device", "export", "study", "study.manage", "loggers"),
        *("models.calling", "search", "search.setup", "pick", "report", "report.content"),
    ),
    "__main__": ("cli",),
    "api": (
        *("errors", "core", "analysis", "tasks", "export", "study", "loggers", "search", "search.setup", "pick"),
        "report",
    ),
    "": ("errors", "core", "tasks", "export", "search", "search.setup", "study", "api"),
}
PACKAGES = [name for name in MAY_USE if name and "." not in name]

# libraries by the only packages or files that import them; what is not named here is the standard library
DOORS = {
    "torch": (
        *("tasks", "models", "cost", "pruning", "training", "export", "search.evaluation", "search.setup"),
        *("search.screening.look", "search.trial_weights", "pick", "testing", "api", "loggers.tensorboard"),
    ),
    "torchvision": ("tasks", "models"),
    "optuna": ("study",),
    "sqlalchemy": ("study",),
    "boto3": ("study.artifact_store",),
    "botocore": ("study.artifact_store",),
    "google": ("study.artifact_store",),
    "filelock": ("pick.unfinished_pick",),
    "mlflow": ("loggers.mlflow",),
    "wandb": ("loggers.wandb",),
    "moocore": ("analysis.pareto",),
    "numpy": (
        "report.content.hypervolume_history",
        *("core", "analysis", "study", "cost", "tasks", "search.proposals", "search.screening"),
        *("export.int8_calibration", "export.int8_quantise"),
        "export.timing_command",  # the inputs that it sends
        *("report.content.parameter_importance", "pick.solve_budget"),
    ),
    "scipy": ("search.proposals", "tasks.read_wav"),
    "pydantic": (
        *("study.spec", "study.spec_base", "study.spec_budget", "study.spec_run", "study.spec_sections"),
        *("study.spec_toml", "study.spec_training"),
    ),
    "pydantic_core": ("study.spec_base",),
    "tomllib": ("study.spec_toml", "cli.read_request"),
    "tomli_w": ("study.spec_toml",),
    "safetensors": ("models", "training", "export", "search.setup", "search.trial_weights", "pick.unfinished_pick"),
    "sklearn": ("tasks",),
    "onnx": ("export",),
    "onnxscript": ("export",),
    "onnxruntime": ("export",),
    "openvino": ("export.openvino",),
    "PIL": ("tasks",),
    "jinja2": ("report.page",),
    "plotly": ("report.page",),
    "matplotlib": ("report.plots",),
    "optuna_dashboard": ("report.optuna_dashboard",),
    "rich": ("report.content.terminal", "loggers.console", "loggers.safe_console", "cli"),
    "click": ("cli",),
    "ray": ("cli.ray_cluster", "cli.ray_workers"),
}

HEAVY = (
    *("torch", "torchvision", "optuna", "sklearn", "scipy", "matplotlib", "moocore", "plotly", "jinja2"),
    *("onnx", "onnxruntime", "openvino", "mlflow", "wandb", "boto3", "google.cloud.storage", "ray"),
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


def room_of(name: str) -> str:
    """Return the innermost package of the table that holds a module."""
    parts = name.split(".")
    found = [room for size in range(len(parts), 0, -1) if (room := ".".join(parts[:size])) in MAY_USE]
    if not found:
        pytest.fail(f"autoprune/{name.replace('.', '/')} is in no package of MAY_USE; give it a row there")
    return found[0]


@pytest.mark.parametrize("name", FILES, ids=lambda name: name or "façade")
def test_a_file_imports_only_what_its_package_may(name: str) -> None:
    room = room_of(name)
    allowed = {room, *MAY_USE[room]}
    found = [(one.line, one.module) for one in imports_of(name) if one.ours]
    assert [(line, module) for line, module in found if room_of(module) not in allowed] == []


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


def test_every_arrow_of_the_table_is_there_and_none_runs_back() -> None:
    drawn = {(room_of(name), room_of(one.module)) for name in FILES for one in imports_of(name) if one.ours}
    assert [(room, other) for room, others in MAY_USE.items() for other in others if (room, other) not in drawn] == []
    TopologicalSorter(MAY_USE).prepare()


def test_there_are_at_most_fourteen_packages_beside_the_facades() -> None:
    assert len([name for name in PACKAGES if name not in ("errors", "testing", "api", "__main__")]) <= 14


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
        ("import autoprune.study.spec_toml, autoprune.study.find_study", HEAVY),
        ("import autoprune.core.space, autoprune.analysis.pareto", HEAVY),
        ("import autoprune.study.ledger, autoprune.search.proposals.proposer", ("torch", "torchvision")),
        (
            "import autoprune.study.view, autoprune.report.write_report",
            ("torch", "torchvision", "optuna", "sqlalchemy", "alembic"),
        ),
        (
            "import autoprune.report.live, autoprune.report.optuna_dashboard, autoprune.loggers.log_file",
            ("torch", "torchvision"),
        ),
        (
            "from autoprune.study.manage import export, import_archive, remove",
            ("torch", "torchvision"),
        ),
    ],
)
def test_what_must_start_at_once_loads_nothing_heavy(code: str, absent: tuple[str, ...]) -> None:
    program = f"import sys; {code}; print(*sorted(set(sys.modules) & set({absent})), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], cwd=HOUSE.parent, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.strip()) == (0, "")
