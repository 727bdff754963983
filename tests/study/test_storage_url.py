"""Storage URLs: any character in a path or a password, and no password in what is shown."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import quote

import click
import pytest
from study_fakes import make_proposals, open_ledger

from autoprune.cli.secrets import command_again, hidden, remember_arguments
from autoprune.errors import StudyError
from autoprune.study.copy_trials import backup_sqlite, has_study
from autoprune.study.storage import open_storage
from autoprune.study.storage_url import read_url, sqlite_path, sqlite_url, without_password, without_secret

ODD = [
    "100%",
    "a%41b",
    "{a}",
    "{SCHEMA_VERSION}",
    "{0} }{",
    "what?",
    "a#b",
    "me@home",
    "a:b",
    "ü ß",
    "a=b&c",
    "%(x)s",
    "'q'",
]
PASSWORDS = [
    *(
        "secret",
        "p@ssword",
        "sl/ash",
        "co:lon",
        "ques?tion",
        "ha#sh",
        "100%",
        "a%41b",
        "{braces}",
        "sp ace",
        "ü€",
        "a@b:c/d",
    ),
    *(
        "'quoted'",
        '"double"',
        "back\\slash",
        "am&per=sand",
        "@",
        "plus+plus",
        "ends@",
        "//://@",
        "[brackets]",
        "x@host",
    ),
]


@pytest.mark.parametrize("name", ODD)
def test_a_study_lies_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    url = sqlite_url(folder / "study.db")
    assert sqlite_path(url) == folder / "study.db"
    with open_ledger(folder) as ledger:
        assert ledger.ask(make_proposals(), 0).number == 0
    assert has_study(url, "fake")
    backup_sqlite(folder / "study.db", folder / "copy.db")
    assert sorted(path.name for path in tmp_path.iterdir()) == [name], "nothing landed elsewhere"


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("is_quoted", [True, False])
def test_a_password_of_any_characters_is_read_and_never_shown(password: str, is_quoted: bool) -> None:
    if not is_quoted and password == "a%41b":
        password = "aAb"  # what it means if it is not quoted
        url = "postgresql://me:a%41b@db.example/x"
    else:
        url = f"postgresql://me:{quote(password, safe='') if is_quoted else password}@db.example/x"
    found = read_url(url)
    assert (found.username, found.password, found.host, found.database) == ("me", password, "db.example", "x")
    assert read_url(found.render_as_string(hide_password=False)) == found
    assert without_password(url) == "postgresql://me:***@db.example/x"
    for said in (
        f"cannot connect to {url}",
        f"denied for {password!r}",
        f"no host {password.split('@')[-1]}@db.example",
    ):
        shown = without_secret(said, url)
        assert password not in shown.replace("db.example", "") or password == "@"
        assert quote(password, safe="") not in shown or password == "@"


def test_passwords_in_the_query_and_in_what_is_hardly_a_url_are_hidden_too() -> None:
    assert without_password("postgresql://h/d?user=me&password=x&sslmode=require") == (
        "postgresql://h/d?user=me&password=***&sslmode=require"
    )
    assert without_password("postgresql:/me:pw@h") == "postgresql:***"
    assert without_password("postgresql://me@h/d") == "postgresql://me@h/d"
    assert "hunter2" not in without_secret("wrong: hunter2", "mysql://h/d?passwd=hunter2")


@pytest.mark.parametrize("url", ["nonsense", "postgresql:/me:pw@h", "mysql://me:p:pw@h:abc/d", "://me:pw@h", ""])
def test_what_is_no_url_is_said_without_its_password(url: str) -> None:
    with pytest.raises(StudyError) as caught:
        read_url(url)
    assert "pw" not in str(caught.value)
    assert "expected for example postgresql://user:password@host/database" in str(caught.value)


def test_a_driver_that_is_missing_or_a_server_that_is_away_shows_no_password() -> None:
    for url in ("nosuchdatabase://me:hunter2@h/d", "postgresql://me:hunt@er2@127.0.0.1:1/d"):
        with pytest.raises(StudyError, match="cannot be opened") as caught:
            open_storage(url)
        assert "er2" not in str(caught.value)
        assert "me:***@" in str(caught.value)


def test_a_driver_that_is_not_installed_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StudyError, match=r"driver is not installed: .*psycopg.*the extra \[postgres\]") as caught:
        open_storage("postgresql+psycopg://me:hunter2@h/d")
    assert "hunter2" not in str(caught.value)


def test_the_command_to_go_on_with_and_messages_about_arguments_show_no_password() -> None:
    arguments = ["search", "my study", "--storage", "postgresql://me:pa ss@h/d", "--set", "a=b", "--storage=my://u:x@h"]
    ctx = click.Context(click.Command("autoprune"))
    remember_arguments(ctx, arguments)
    assert command_again(ctx) == (
        "autoprune search 'my study' --storage 'postgresql://me:***@h/d' --set a=b '--storage=my://u:***@h'"
    )
    assert hidden("unexpected argument (postgresql://me:pa ss@h/d)", ctx) == (
        "unexpected argument (postgresql://me:***@h/d)"
    )
