"""What of the command line may be shown again: everything but the passwords of storage URLs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

import click

STORAGE_VARIABLE, ARTIFACTS_VARIABLE = "AUTOPRUNE_STORAGE", "AUTOPRUNE_ARTIFACTS"
_STORAGE = "--storage"
_ARGUMENTS = "autoprune.cli.arguments"  # a key of click's own memory of the whole command


def remember_arguments(ctx: click.Context, arguments: Sequence[str]) -> None:
    """Keep what was typed after ``autoprune``, for :func:`command_again` and :func:`hidden`."""
    ctx.meta[_ARGUMENTS] = tuple(arguments)


def command_again(ctx: click.Context) -> str:
    """Return the command as it was typed, to be typed again; in the place of a password stands ``***``."""
    return f"autoprune {shlex.join(_shown(each) for each in typed_arguments(ctx))}"


def hidden(message: str, ctx: click.Context) -> str:
    """Return a message in which no URL that was typed, or is in the environment, shows its password."""
    for given in (*typed_arguments(ctx), os.environ.get(STORAGE_VARIABLE, "")):
        for text in (given, given.partition("=")[2]):
            shown = _shown(text)
            if shown != text:
                message = message.replace(text, shown).replace(repr(text)[1:-1], repr(shown)[1:-1])
    return message


def typed_arguments(ctx: click.Context) -> tuple[str, ...]:
    """Return what was typed after ``autoprune``, passwords included: never to be shown."""
    return tuple(ctx.meta.get(_ARGUMENTS, ()))


def without_storage(arguments: Sequence[str]) -> list[str]:
    """Return arguments without ``--storage`` and its URL, for a command that finds the URL in the environment.

    >>> without_storage(["search", "mine", "--storage", "mysql://me:secret@host/db", "--storage=x", "--quiet"])
    ['search', 'mine', '--quiet']
    """
    left, is_url = list[str](), False
    for each in arguments:
        if is_url or each == _STORAGE or each.startswith(f"{_STORAGE}="):
            is_url = each == _STORAGE and not is_url
        else:
            left.append(each)
    return left


def _shown(argument: str) -> str:
    """Return an argument as it may be shown.

    >>> _shown("--storage=mysql://me:secret@host/db"), _shown("space.keep=a:b@c")
    ('--storage=mysql://me:***@host/db', 'space.keep=a:b@c')
    """
    from autoprune.study.storage_url import without_password

    if "://" not in argument:
        return argument
    flag, equals, value = argument.partition("=")
    if "://" in flag:
        return without_password(argument)
    return f"{flag}{equals}{without_password(value)}"
