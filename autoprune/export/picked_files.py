"""The files of a picked folder: their names, and which of them one lacks."""

from __future__ import annotations

from pathlib import Path

from autoprune.core.export_formats import FILES, PLUG_INS
from autoprune.core.json_values import DAMAGE, parse_json

WEIGHTS, ARCHITECTURE, POLICY = "model.safetensors", "architecture.json", "policy.json"
CARD_JSON, CARD = "card.json", "card.md"
OLD_ARCHITECTURE = "recipe.json"  # what architecture.json was called at first
OURS = frozenset(
    {WEIGHTS, ARCHITECTURE, OLD_ARCHITECTURE, POLICY, CARD, CARD_JSON, *FILES.values(), "model.bin", PLUG_INS}
)


def architecture_file(folder: Path) -> Path:
    """Return the file that says how the network is rebuilt, which has an older name in older folders."""
    path, old = folder / ARCHITECTURE, folder / OLD_ARCHITECTURE
    return old if old.is_file() and not path.is_file() else path


def missing_files(folder: Path) -> list[str]:
    """Return what a picked folder lacks, by name: what each has, and what its card names, in the size it names."""
    needed = [WEIGHTS, architecture_file(folder).name, CARD_JSON, CARD]
    lacking = [name for name in needed if not (folder / name).is_file()]
    try:
        files = parse_json((folder / CARD_JSON).read_text(encoding="utf-8")).get("files", {})
        sizes = {name: int(facts["bytes"]) for name, facts in files.items()}
    except (OSError, *DAMAGE):
        return lacking if CARD_JSON in lacking else [*lacking, f"a {CARD_JSON} that can be read"]
    if OLD_ARCHITECTURE in sizes:  # under this name the card of an older folder knows it
        lacking = [name for name in lacking if name != ARCHITECTURE]
    there = {name: (folder / name).stat().st_size for name in sizes if (folder / name).is_file()}
    return [*lacking, *(name for name, size in sizes.items() if there.get(name) != size and name not in lacking)]
