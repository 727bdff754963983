"""Storage URLs: a path or a password in one may hold any character, and no password is ever shown.

SQLAlchemy's ``URL`` does the quoting. Its reader ends a password at the first ``@`` and trips over other characters
that people type unquoted, so the password is taken out here first, up to the last ``@``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from autoprune.errors import StudyError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

HIDDEN = "***"
POSTGRESQL = "postgresql"
_CREDENTIALS = re.compile(r"(?P<driver>[^/:]*)://(?P<user>[^:/]*):(?P<password>.*)@(?P<place>[^@]*)", re.DOTALL)
_SECRET_KEYS = re.compile(r"(?P<key>[\w-]*(?:pass|pwd|secret|token)[\w-]*=)(?P<value>[^&]*)", re.IGNORECASE)
_FEWEST = 3  # characters of a password that are searched for in a message: fewer stand in any text


def sqlite_url(path: Path) -> str:
    """Return the storage URL of a SQLite file, whatever characters its path holds.

    Raises:
        StudyError: if this SQLAlchemy cannot hold the path in a URL.
    """
    from sqlalchemy.engine import URL, make_url

    absolute = str(path.absolute())
    text = URL.create("sqlite", database=absolute).render_as_string()
    if make_url(text).database != absolute:  # SQLAlchemy before 2.1
        raise StudyError(f"{str(path)!r} has a character in it that no storage URL can hold; choose another folder")
    return text


def sqlite_path(url: str) -> Path | None:
    """Return the file of a SQLite URL, or ``None`` for any other storage."""
    if not url.startswith("sqlite"):
        return None
    database = read_url(url).database
    return Path(database) if database and database != ":memory:" else None


def serves_many_machines(url: str) -> bool:
    """Return whether workers on several machines may share a storage.

    Raises:
        StudyError: if it is no URL.
    """
    return read_url(url).get_backend_name() == POSTGRESQL


def read_url(text: str) -> URL:
    """Return a storage URL in its parts.

    Args:
        text: as the user wrote it; special characters of the password may be quoted by ``%`` or not.

    Raises:
        StudyError: if it is no URL; the message shows no password.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    secret = _secret(text)
    try:
        if secret is None:
            return make_url(text)
        start, end = secret
        return make_url(f"{text[: start - 1]}{text[end:]}").set(password=unquote(text[start:end]))
    except (ArgumentError, ValueError) as error:
        raise StudyError(
            f"the storage {without_password(text)!r} cannot be opened, since it is no URL; expected for example "
            f"postgresql://user:password@host/database or sqlite:////folder/file.db, with a ? or @ outside of the "
            f"password written as %3F or %40"
        ) from error


def without_password(text: str) -> str:
    """Return a URL as it may be shown.

    >>> without_password("postgresql://me:p@ss/w:rd%@host/db?sslpassword=x&a=b")
    'postgresql://me:***@host/db?sslpassword=***&a=b'
    >>> without_password("sqlite:////home/me@work/study.db")
    'sqlite:////home/me@work/study.db'
    """
    if text.startswith("sqlite"):
        return text
    secret = _secret(text)
    if secret is not None:
        text = f"{text[: secret[0]]}{HIDDEN}{text[secret[1] :]}"
    elif "://" not in text and ":" in text:  # no URL, but perhaps what was meant to be one
        text = f"{text.partition(':')[0]}:{HIDDEN}"
    return _SECRET_KEYS.sub(rf"\g<key>{HIDDEN}", text)


def without_secret(message: str, url: str) -> str:
    """Return what a database or its driver said, with the URL's password hidden in whatever spelling it stands there.

    >>> without_secret("could not translate host name 'ss@host'", "postgresql://me:p@ss@host/db")
    "could not translate host name '***@host'"
    """
    shown = message.replace(url, without_password(url))
    pieces: set[str] = set()
    secret = _secret(url)
    values = [match["value"] for match in _SECRET_KEYS.finditer(url)]
    for raw in [*values, *([url[secret[0] : secret[1]]] if secret else [])]:
        plain = unquote(raw)
        pieces |= {raw, plain, unquote_plus(raw), quote(plain), quote_plus(plain), repr(plain)[1:-1]}
        pieces |= set(re.split(r"[@/:?#]", raw)) | set(re.split(r"[@/:?#]", plain))  # as a reader may cut it
    for piece in sorted(pieces, key=len, reverse=True):
        if len(piece) >= _FEWEST or piece in values:
            shown = shown.replace(piece, HIDDEN) if piece else shown
        elif piece:
            shown = re.sub(rf"(?<!\w){re.escape(piece)}(?!\w)", HIDDEN, shown)
    return shown


def _secret(text: str) -> tuple[int, int] | None:
    """Return where the password stands in a URL; ``None`` if there is none."""
    found = None if text.startswith("sqlite") else _CREDENTIALS.match(text)
    return found.span("password") if found else None
