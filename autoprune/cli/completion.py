"""``autoprune completion``: the script that teaches a shell to complete commands, options, studies and trials."""

from __future__ import annotations

import click

SHELLS = ("bash", "zsh", "fish")


@click.command(
    epilog="""\b
Examples:
  autoprune completion bash >> ~/.bashrc
  autoprune completion zsh >> ~/.zshrc
  autoprune completion fish > ~/.config/fish/completions/autoprune.fish
"""
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a SHELL: for commands, options, studies, recipes and numbers of trials.

    Put it where the shell reads it when it starts, as below, and open a new one.
    """
    from click.shell_completion import get_completion_class

    root = ctx.find_root().command
    found = get_completion_class(shell)
    if found is None:
        ctx.fail(f"click knows no completion for {shell}")
    click.echo(found(root, {}, "autoprune", "_AUTOPRUNE_COMPLETE").source())
