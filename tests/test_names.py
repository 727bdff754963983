"""One meaning for each word: the glossary, as far as names can show it."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1] / "autoprune"
TREES = {
    ".".join(path.relative_to(HOUSE).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(HOUSE.rglob("*.py"))
}

# a word in public names → the only packages where it may stand, since it means one thing there
WORDS = {
    "recipe": ("study.find_study",),  # a study.toml that ships with the package
    "rung": ("analysis.successive_halving", "export.card_origin"),  # of the contest among finalists
    # the exported file of a study; and the tar that goes to a machine that times
    "archive": ("study.manage", "export.timing_script", "export.timing_command"),
    "look": ("search.evaluation", "analysis.early_stopping", "models.torchvision_zoo"),
    "sparsity": ("core.policy", "study.spec_training"),  # a fraction; the section [sparsity] keeps its name
    "distill": ("training", "tasks", "study.spec_training"),
    "guide": ("search.proposals",),
    "block": ("core", "pruning", "search", "pick", "export", "models", "cost", "report", "study.policy_params"),
    "lease": ("study", "errors"),
    "worker": ("study", "search", "cli", "loggers", "report"),
}
# never in a public name: what they meant has a word of the field's now
GONE = ("climb", "judge", "workbench", "settled", "hits", "subject", "origins", "delivery", "halfway", "deliver")
# words that may mean one thing only, and what they must not name
PRUNE_NAMES = re.compile(r"prun", re.IGNORECASE)


def public_names() -> Iterator[tuple[str, str]]:
    """Yield (module, name) of every public class, function and method, and of every parameter type alias."""
    for module, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                yield module, node.name
            if isinstance(node, ast.ClassDef):
                yield from (
                    (module, each.name)
                    for each in node.body
                    if isinstance(each, ast.FunctionDef) and not each.name.startswith("_")
                )


def words_of(name: str) -> list[str]:
    """Return the words of a name in either style.

    >>> words_of("RungRow"), words_of("keep_reached")
    (['rung', 'row'], ['keep', 'reached'])
    """
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)]


def test_no_two_public_classes_share_a_name() -> None:
    places = defaultdict(list)
    for module, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module)
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            if isinstance(target, ast.Name) and re.fullmatch(r"[A-Z][a-z]\w*", target.id):  # a type's other name
                places[target.id].append(module)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


@pytest.mark.parametrize("word", WORDS)
def test_a_word_of_the_glossary_stands_where_it_has_its_meaning(word: str) -> None:
    allowed = WORDS[word]
    strays = [
        f"{module}:{name}"
        for module, name in public_names()
        if any(each in (word, f"{word}s") for each in words_of(name))
        and not any(module == place or module.startswith(f"{place}.") for place in allowed)
    ]
    assert strays == []


@pytest.mark.parametrize("word", GONE)
def test_a_word_that_was_given_up_is_gone(word: str) -> None:
    strays = [f"{module}:{name}" for module, name in public_names() if word in words_of(name)]
    strays += [module for module in TREES if word in module.rpartition(".")[2].split("_")]
    assert strays == []


def test_to_prune_is_to_remove_weights_and_never_to_end_a_trial() -> None:
    """Optuna calls a trial that ends early pruned; here it is stopped."""
    ending = ("early_stopping", "monitor", "stopping_worth", "successive_halving")
    strays = [
        f"{module}:{name}"
        for module, name in public_names()
        if module.rpartition(".")[2] in ending and PRUNE_NAMES.search(name)
    ]
    assert strays == []


@pytest.mark.parametrize("module", TREES)
def test_a_class_docstring_names_the_thing_and_a_function_docstring_begins_with_a_verb(module: str) -> None:
    """PEP 257, as far as first words tell: a class is no command, and a function's first word is no article."""
    commands = {"Hold", "Say", "Be", "Know", "Tell", "Name", "Give", "Keep", "Let", "Look", "Ask", "Decide", "Stand"}
    faults = []
    for node in ast.walk(TREES[module]):
        first = (ast.get_docstring(node) or "x").split()[0] if isinstance(node, ast.ClassDef) else "x"
        if first in commands:
            faults.append(f"{node.name}: {first} …")  # type: ignore[attr-defined]
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            text = ast.get_docstring(node) or "Return"
            if text.split()[0] in ("The", "A", "An", "This"):
                faults.append(f"{node.name}: {text.split()[0]} …")
    assert faults == []
