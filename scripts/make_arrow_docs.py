"""Write who may import whom into CONTRIBUTING.md, from the table that ``tests/test_architecture.py`` holds."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- arrows -->\n", "<!-- /arrows -->"


def arrows() -> str:
    """Return the table as Markdown, from the ground up; a package's own sub-packages come before it."""
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        from test_architecture import MAY_USE
    finally:
        sys.path.pop(0)
    rows = [
        f"| `{room}` | {', '.join(f'`{other}`' for other in others) or 'nothing of ours'} |"
        for room, others in MAY_USE.items()
        if room not in ("", "__main__")
    ]
    return "\n".join(
        ["Written by `python scripts/make_arrow_docs.py`.", "", "| in | may import |", "|---|---|", *rows, ""]
    )


def contributing() -> str:
    """Return the page with the table as it is now."""
    before, _, rest = TARGET.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}{arrows()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    TARGET.write_text(contributing(), encoding="utf-8")
    print(f"written: {TARGET}", file=sys.stderr)
