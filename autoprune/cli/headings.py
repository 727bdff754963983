"""Help under headings: ``--help`` explains the options that come first, ``--help-all`` every one.

A command that lists no ``first`` options explains all of them at once and has no ``--help-all``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])
_ALL = "autoprune.cli.help_all"  # in a context's meta: whether every option is explained


class Heading(StrEnum):
    """The headings of a command's options, in the order in which help shows them."""

    BUDGET = "Budget"
    NETWORK = "Network and data"
    CHOICE = "Which network"
    SPACE = "What may go"
    TRAINING = "How candidates are trained"
    SEARCH = "How to search"
    LATENCY = "Latency"
    RUNTIME = "Where it runs"
    SHOWN = "What is shown"
    OUTPUT = "Output"


class HeadedOption(click.Option):
    """An option that stands under a heading.

    Attributes:
        heading: where help lists it.
    """

    def __init__(self, *names: Any, heading: Heading = Heading.OUTPUT, **extra: Any) -> None:
        super().__init__(*names, **extra)
        self.heading = heading


def option(*names: str, heading: Heading, **extra: Any) -> Callable[[_F], _F]:
    """Return a decorator that adds an option under a heading; ``extra`` is as for ``click.option``."""
    return click.option(*names, cls=HeadedOption, heading=heading, **extra)


class HeadedCommand(click.Command):
    """A command that lists its options under headings.

    Attributes:
        first: the options that ``--help`` explains; empty for all of them. The others are named.
    """

    def __init__(self, *args: Any, first: Sequence[str] = (), **extra: Any) -> None:
        super().__init__(*args, **extra)
        self.first = frozenset(first)
        if first:
            self.params.append(_help_all())

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write every heading with its options: those explained, then the names of the others."""
        options = [parameter for parameter in self.get_params(ctx) if isinstance(parameter, click.Option)]
        for heading in Heading:
            under = [each for each in options if getattr(each, "heading", Heading.OUTPUT) is heading]
            if not under:
                continue
            explained = [each for each in under if self._is_explained(each, ctx)]
            others = ", ".join(max(each.opts, key=len) for each in under if each not in explained)
            with formatter.section(heading.value):
                records = [record for each in explained if (record := each.get_help_record(ctx)) is not None]
                if records:
                    formatter.write_dl(records)
                if others:
                    formatter.indent()  # so that a wrapped line does not look like an option's own
                    formatter.write_text(f"{'also' if records else 'in --help-all'}: {others}")
                    formatter.dedent()

    def _is_explained(self, one: click.Option, ctx: click.Context) -> bool:
        is_help = not isinstance(one, HeadedOption) or "--help-all" in one.opts
        return is_help or not self.first or bool(ctx.meta.get(_ALL)) or not self.first.isdisjoint(one.opts)


def full_help(ctx: click.Context) -> str:
    """Return the help of a context's command with every option explained."""
    ctx.meta[_ALL] = True
    return ctx.get_help()


def _help_all() -> HeadedOption:
    def show(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            click.echo(full_help(ctx), color=ctx.color)
            ctx.exit()

    explained = "Explain every option and exit."
    return HeadedOption(["--help-all"], is_flag=True, is_eager=True, expose_value=False, callback=show, help=explained)
