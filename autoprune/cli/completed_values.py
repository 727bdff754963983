"""What a shell offers on Tab: studies, recipes, numbers of trials. Whatever cannot be read offers nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.errors import AutopruneError

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem


def complete_study(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the studies under --root, recipes not begun, and folders."""
    from click.shell_completion import CompletionItem

    from autoprune.study.find_study import recipes

    stored = _stored(ctx)
    names = {**dict.fromkeys(recipes(), "recipe"), **dict.fromkeys(stored, "study")}
    found = [CompletionItem(name, help=names[name]) for name in sorted(names) if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="dir")]


def complete_stored(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the studies under --root that hold trials."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in _stored(ctx) if name.startswith(incomplete)]


def complete_trial(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the completed trials of the study on the command line, with what they are worth."""
    from click.shell_completion import CompletionItem

    from autoprune.core.trial import completed_measurement
    from autoprune.study.find_study import find_study
    from autoprune.study.manage.list import best_text
    from autoprune.study.view import open_view

    try:
        folder, _ = find_study(_named(ctx), _root(ctx))
        view = open_view(folder, ctx.params.get("storage"))
    except AutopruneError:
        return []
    found = [(str(trial.number), completed_measurement(trial)) for trial in view.trials]
    return [
        CompletionItem(number, help=best_text(measured, view.spec.quality))
        for number, measured in found
        if measured is not None and number.startswith(incomplete)
    ]


def _named(ctx: click.Context) -> str | None:
    """Return the study on the command line; click leaves it among the rest while an option lacks its value."""
    return ctx.params.get("study") or next((word for word in ctx.args if not word.startswith("-")), None)


def _stored(ctx: click.Context) -> list[str]:
    return sorted(path.parent.name for path in _root(ctx).glob("[!.]*/resolved.toml"))


def _root(ctx: click.Context) -> Path:
    return Path(ctx.params.get("root") or "studies")
