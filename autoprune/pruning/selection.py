"""Which groups, blocks and layers a user allows to be pruned: ``--keep`` exempts layers, ``--only`` selects them.

A pattern is a glob over module paths, and one that names a module means everything inside it. A group belongs to the
layers that make its channels; a residual stream belongs to every layer that adds to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from autoprune.core.channel_groups import Block, FrozenGroup, PruningGroup
from autoprune.errors import UsageError, did_you_mean
from autoprune.pruning.groups import Groups
from autoprune.pruning.layers.kinds import kind_of


def choose_groups(network: nn.Module, groups: Groups, keep: Sequence[str] = (), only: Sequence[str] = ()) -> Groups:
    """Return the groups, with those frozen that the user exempts.

    Args:
        network: the dense network.
        groups: what can be cut, and what cannot.
        keep: globs over module paths; their channels all stay.
        only: globs over module paths; only their channels may go. Empty for all.

    Raises:
        UsageError: if a pattern matches no layer of the network.
    """
    check_patterns(network, (*keep, *only))
    cuttable, frozen = [], list(groups.frozen)
    for group in groups.cuttable:
        reason = _reason(_makers(network, group), keep, only)
        if reason is None:
            cuttable.append(group)
        else:
            frozen.append(FrozenGroup(group.name, group.num_channels, reason))
    return Groups(tuple(cuttable), tuple(frozen))


def choose_blocks(
    network: nn.Module, blocks: Sequence[Block], keep: Sequence[str] = (), only: Sequence[str] = ()
) -> tuple[Block, ...]:
    """Return the blocks that may be dropped: those without exempted layers, and with selected layers only."""

    def free(block: Block) -> bool:
        inside = [path for path, module in network.named_modules() if block.holds(path) and kind_of(module) is not None]
        return not any(matches(keep, path) for path in inside) and (
            not only or all(matches(only, path) for path in inside)
        )

    return tuple(block for block in blocks if free(block))


def choose_layers(layers: Sequence[str], keep: Sequence[str] = (), only: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the layers whose weights may be masked."""
    return tuple(path for path in layers if not matches(keep, path) and (not only or matches(only, path)))


def check_patterns(network: nn.Module, patterns: Iterable[str]) -> None:
    """Raise if a pattern matches nothing.

    Raises:
        UsageError: naming the pattern and what may have been meant.
    """
    paths = [path for path, _ in network.named_modules() if path]
    paths += [path for path, _ in network.named_parameters()]
    for pattern in patterns:
        if not any(matches((pattern,), path) for path in paths):
            meant = did_you_mean(pattern, paths) or "."
            raise UsageError(
                f"{pattern!r} matches no layer of the network{meant} Give a glob over module paths such as "
                f"{paths[0]!r} or '{paths[0].split('.')[0]}*'; `autoprune inspect` lists them"
            )


def matches(patterns: Iterable[str], path: str) -> bool:
    """Return whether a glob matches a path, or a module that holds it.

    >>> matches(["layer1"], "layer1.0.conv1"), matches(["*.conv1"], "layer1.0.conv1"), matches(["conv"], "conv1")
    (True, True, False)
    """
    parts = path.split(".")
    holders = [".".join(parts[: i + 1]) for i in range(len(parts))]
    return any(fnmatchcase(holder, pattern) for pattern in patterns for holder in holders)


def _reason(makers: Sequence[str], keep: Sequence[str], only: Sequence[str]) -> str | None:
    reason = next((f"kept by {pattern!r}" for pattern in keep for path in makers if matches((pattern,), path)), None)
    if reason is None and only and not any(matches(only, path) for path in makers):
        return f"not selected by {', '.join(map(repr, only))}"
    return reason


def _makers(network: nn.Module, group: PruningGroup) -> list[str]:
    """Return the layers that make a group's channels; norms and slopes only pass them on."""
    found = []
    for member in group.producers():
        parts = member.module.split(".")
        module: nn.Module | None = network
        for part in parts:
            module = getattr(module, part, None)
        kind = kind_of(module) if isinstance(module, nn.Module) else None
        if kind is None or {"in", "heads"} & set(kind.sizes(module)) or isinstance(module, nn.Embedding):
            found.append(member.module)
    return found
