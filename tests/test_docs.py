"""The words are true: generated pages are up to date, links lead somewhere, and every code block works.

A fenced block of README or docs is either output, marked ``text``, or code. ``toml`` is parsed by the reader of
``study.toml``, each ``autoprune …`` line of ``bash`` by the command line, and the ``python`` blocks of a page run in
order, in a folder that holds a study and a picked network; those under ``<!-- needs: library -->`` where it is
installed. A comment ``<!-- not run: reason -->`` right above a block
excuses it.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from command_lines import understood

import autoprune

REPOSITORY = Path(__file__).resolve().parent.parent
DOCS = sorted(REPOSITORY.glob("docs/**/*.md"))
PAGES = sorted([*REPOSITORY.glob("*.md"), *DOCS])
README = REPOSITORY / "README.md"
# blocks that are left out; raise it for a good reason only: 8 are of packages that want another PyTorch or a GPU
EXCUSES = 9
FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<language>[^\n]*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)

pytestmark = pytest.mark.usefixtures("process_is_left_as_it_was")


def title(page):
    return str(page.relative_to(REPOSITORY))


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    language: str
    code: str
    mark: str

    @property
    def is_excused(self):
        return self.mark.startswith("not run: ") and len(self.mark) > len("not run: ")

    @property
    def is_possible(self):
        """Whether the libraries are installed that a comment ``<!-- needs: a, b -->`` names."""
        needed = self.mark.removeprefix("needs: ").split(", ") if self.mark.startswith("needs: ") else []
        return all(importlib.util.find_spec(name) for name in needed)


def blocks(page, *languages):
    """Return the blocks of a page, those in some languages alone if any are named."""
    found = [
        Block(page, match["language"], match["code"], match["mark"] or "")
        for match in FENCE.finditer(page.read_text(encoding="utf-8"))
    ]
    return [block for block in found if not languages or (block.language in languages and not block.is_excused)]


def block(kind, name):
    """Return the code block of README that stands under ``<!-- kind: name -->``."""
    found = [each.code for each in blocks(README) if each.mark == f"{kind}: {name}"]
    assert len(found) == 1, f"README has no block marked {kind}: {name}, or several"
    return found[0]


def pages_with(*languages):
    return [page for page in PAGES if blocks(page, *languages)]


# -- pages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "function", "page"),
    [
        ("make_cli_docs", "cli_docs", "cli.md"),
        ("make_spec_docs", "spec_docs", "spec.md"),
    ],
)
def test_generated_pages_are_up_to_date(script, function, page):
    written = (REPOSITORY / "docs" / "reference" / page).read_text(encoding="utf-8")
    assert written == getattr(load_script(script), function)(), f"run: python scripts/{script}.py"


def test_the_page_on_commands_is_the_same_after_a_command_was_called_by_itself(monkeypatch):
    from autoprune.cli.report import report

    monkeypatch.setattr(report, "_help_option", None)
    report.get_help_option(click.Context(report))  # which click keeps, without the -h of the whole
    assert "-h, --help" in load_script("make_cli_docs").help_of(report, "autoprune report")


def test_who_may_import_whom_is_up_to_date_for_contributors():
    written = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert written == load_script("make_arrow_docs").contributing(), "run: python scripts/make_arrow_docs.py"


def anchors(page):
    """Return what a heading of a page is linked by, as GitHub makes it."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)]*)\)", FENCE.sub("", page.read_text(encoding="utf-8"))):
        if not target.startswith("http"):
            there = page.parent / target if target else page
            assert there.exists(), f"{page.name} links to {target}, which does not exist"
            assert not anchor or anchor in anchors(there), f"{page.name} links to {target}#{anchor}, no heading there"


def test_every_page_is_in_the_index():
    index = REPOSITORY / "docs" / "index.md"
    text = index.read_text(encoding="utf-8")
    left_out = [title(page) for page in DOCS if page != index and f"({page.relative_to(index.parent)})" not in text]
    assert left_out == []


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 120


def test_readme_or_index_names_every_command():
    from autoprune.cli.main import COMMANDS

    text = README.read_text(encoding="utf-8") + (REPOSITORY / "docs" / "index.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"autoprune {name}" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_every_option_that_is_named_exists(page):
    known = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", load_script("make_cli_docs").cli_docs()))
    others = {"--quiet", "--study", "--trials", "--rounds", "--steps", "--network", "--kind"}
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if "autoprune " in line or "`--" in line]
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", "\n".join(lines)):
        assert option in known | others, f"{page.name} names {option}, which no command has"


# -- code blocks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_every_block_is_output_or_in_a_language_that_is_checked(page):
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"^\s*```", text, re.MULTILINE)) == 2 * len(blocks(page)), "a fence is indented or left open"
    assert {block.language for block in blocks(page)} <= {"text", "python", "bash", "toml"}


def test_few_blocks_are_excused():
    assert sum(block.is_excused for page in PAGES for block in blocks(page)) <= EXCUSES


def command_lines(code):
    """Yield the words of every ``autoprune …`` in a shell's lines, without comments, pipes and redirections."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = next((at for at, word in enumerate(words) if word in ("&&", "|", ";", ">", ">>")), len(words))
            if Path(words[0]).name == "autoprune":
                yield words[1:end]
            words = words[end + 1 :]


@pytest.mark.parametrize("page", pages_with("bash"), ids=title)
def test_every_command_is_understood(page):
    from autoprune.cli import main

    for each in blocks(page, "bash"):
        assert subprocess.run(["bash", "-n"], input=each.code, text=True, check=False).returncode == 0
        for words in command_lines(each.code):
            understood(main, words)


def test_a_command_that_does_not_exist_would_be_noticed():
    from autoprune.cli import main

    (words,) = command_lines("x && .venv/bin/autoprune search --nosuch 3 | less  # a comment\n")
    assert words == ["search", "--nosuch", "3"]
    with pytest.raises(click.UsageError, match="nosuch"):
        understood(main, words)
    with pytest.raises(click.UsageError, match="no command"):
        understood(main, ["serach"])


@pytest.mark.parametrize("page", pages_with("toml"), ids=title)
def test_every_table_of_a_study_is_understood(page):
    from autoprune.study.spec_toml import Layer, parse_spec

    for each in blocks(page, "toml"):
        parse_spec([Layer(page.name, tomllib.loads(each.code))])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with README's ``mine.py`` and two picked networks, where pages look for them."""
    from autoprune.core.policy import PruningPolicy
    from autoprune.export.architecture import Architecture, PrunedArchitecture
    from autoprune.export.saved_network import save_network
    from autoprune.models.build import build_model

    folder = tmp_path_factory.mktemp("docs")
    (folder / "mine.py").write_text(block("file", "mine.py"), encoding="utf-8")
    network = build_model("resnet20", num_classes=2, input_shape=(1, 8, 8), seed=0)  # built in, as the pages' own is
    for number in (16, 17, 28):
        picked = folder / "studies" / "digits-resnet56" / "picked" / str(number)
        picked.mkdir(parents=True)
        dense = Architecture("resnet20", 2, (1, 8, 8))
        save_network(picked, network, PrunedArchitecture.of(network, {}, dense, PruningPolicy(), {}))
    return folder


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # of Lightning, where it is installed
@pytest.mark.parametrize("page", pages_with("python"), ids=title)
def test_every_python_block_runs(page, place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    names = {"__name__": "page"}
    for each in filter(lambda block: block.is_possible, blocks(page, "python")):
        exec(compile(each.code, title(page), "exec"), names)
    for test in [value for name, value in names.items() if name.startswith("test_")]:
        test(tmp_path)


def test_the_example_of_your_own_network_and_data_runs(tmp_path):
    (tmp_path / "mine.py").write_text(block("file", "mine.py"), encoding="utf-8")
    for words in command_lines(block("command", "mine")):
        done = subprocess.run(
            [sys.executable, "-m", "autoprune", *words], cwd=tmp_path, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    picked = next((tmp_path / "studies" / "mine" / "picked").iterdir())
    names = {"model.safetensors", "architecture.json", "policy.json", "model.onnx", "card.md", "card.json"}
    assert {path.name for path in picked.iterdir()} == names


# -- reference --------------------------------------------------------------------------------------------------------

API = (REPOSITORY / "docs" / "reference" / "api.md").read_text(encoding="utf-8")


def test_the_page_on_python_documents_every_public_name():
    assert sorted(re.findall(r"^### `(\w+)", API, re.MULTILINE)) == sorted(autoprune.__all__)


@pytest.mark.parametrize("name", [name for name in autoprune.__all__ if name != "AutopruneError"])
def test_the_page_on_python_gives_the_parameters_as_they_are(name):
    written = re.search(rf"^### `{name}\((.*?)\)`", API, re.MULTILINE)[1].split(", ")
    parameters = list(inspect.signature(getattr(autoprune, name)).parameters)
    cut = written[-1] == "…"
    assert (written[:-1] if cut else written) == parameters[: len(written) - cut]
    assert cut or len(written) == len(parameters)


def test_the_page_on_files_names_every_file_of_a_study_and_of_a_picked_folder():
    from autoprune.core.export_formats import FILES
    from autoprune.export import picked_files
    from autoprune.study.folder import StudyFolder
    from autoprune.study.manage import file_inventory

    page = (REPOSITORY / "docs" / "reference" / "file-formats.md").read_text(encoding="utf-8")
    properties = [name for name, value in vars(StudyFolder).items() if isinstance(value, property)]
    paths = [value for name in properties if isinstance(value := getattr(StudyFolder(Path()), name), Path)]
    picked = [value for name, value in vars(picked_files).items() if name.isupper() and isinstance(value, str)]
    made = [name for name in file_inventory.DERIVED if "*" not in name and not name.startswith(".")]
    for name in {*(path.name for path in paths), *picked, *FILES.values(), *made} - {"search.log.[0-9]"}:
        assert f"`{name}" in page, f"docs/reference/file-formats.md leaves out {name}"
