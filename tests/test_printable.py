"""Text of files, archives and exceptions cannot command a terminal."""

import io

import pytest

from autoprune.errors import ModelError, SpecError, printable
from autoprune.loggers.safe_console import SafeConsole

EVIL = "a\x1b[31mb\x1b]0;title\x07c\x9b2Jd\x08\x7f\u202ee\r\n\tf\x1bcg"


def test_commands_go_and_lines_stay() -> None:
    shown = printable(EVIL)
    assert shown.startswith("ab")
    assert shown.endswith("e\n\tfcg")
    assert not any(ord(character) < 32 and character not in "\n\t" for character in shown)
    assert not set("\x7f\x9b\u202e") & set(shown)


@pytest.mark.parametrize("error", [ModelError(EVIL), SpecError(EVIL, [EVIL])])
def test_every_message_of_ours(error: Exception) -> None:
    assert "\x1b" not in str(error)
    assert "\x9b" not in f"{error}"


def test_a_console_keeps_its_own_colours_only() -> None:
    shown = io.StringIO()
    console = SafeConsole(file=shown, force_terminal=True, color_system="standard", width=80)
    console.print(f"[bold]{EVIL}[/bold]")
    assert "\x1b[1m" in shown.getvalue()
    assert "\x1b[31m" not in shown.getvalue()
    assert "\x1b]0;" not in shown.getvalue()
