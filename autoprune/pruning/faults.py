"""What goes wrong when groups are cut: the reason in words, and the numbers that the failing code had read.

Code often keeps a width as a number, ``self.width``, ``self.splits``. Where a forward pass fails once a group is cut,
the modules that were running then are looked at: a number among their attributes that counts the group's channels, and
that the failing function reads, is proposed as one that shrinks with it.
"""

from __future__ import annotations

import linecache
import re
import traceback
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import nn

from autoprune.core.channel_groups import Member, PruningGroup
from autoprune.pruning.channel_positions import sizes_of
from autoprune.pruning.layers.kinds import kind_of
from autoprune.pruning.number_attributes import NUMBER, name_of, numbers_of
from autoprune.pruning.tracing.tracer import NOT_THE_USERS

_CALLS = ("_wrapped_call_impl", "_call_impl", "inner")  # frames between a module's call and its forward


@dataclass(frozen=True)
class Draw:
    """One trial cut.

    Attributes:
        removed: group → the channels that it loses; a group without an entry loses none.
        until: the last thing that is tried: that it *runs*, that it *equals* the masked twin, that it *trains*.
    """

    removed: Mapping[str, tuple[int, ...]]
    until: Literal["runs", "equals", "trains"]

    def among(self, groups: Iterable[PruningGroup]) -> Draw:
        """Return the same cut of some groups only."""
        names = {group.name for group in groups}
        return replace(self, removed={name: lost for name, lost in self.removed.items() if name in names})


@dataclass(frozen=True)
class CutFault:
    """Why groups cannot be cut.

    Attributes:
        reason: in words a user understands.
        progress: how far a forward pass came, as lines of functions and modules in the order in which they begin; a
            larger one is further.
        numbers: for each function that was running, from the innermost: attributes that may have to shrink.
        shares: the same with those that count several for each channel, as heads of queries to one of keys; tried last.
        draw: in which it showed, ``None`` if none was tried.
        lines: of the user's functions that were running, from the outside, which tell two faults of one module apart.
    """

    reason: str
    progress: tuple[float, ...] = (float("inf"),)
    numbers: tuple[tuple[Member, ...], ...] = ()
    shares: tuple[tuple[Member, ...], ...] = ()
    draw: Draw | None = None
    lines: tuple[int, ...] = ()

    def is_further_than(self, other: CutFault) -> bool:
        """Return whether a pass came further before it failed; so it may have if both failed on the same line.

        A line that calls may have failed in the call, or after it had returned.
        """
        mine, others = self.progress, other.progress
        if mine == others:
            return self.lines > other.lines
        shared = min(len(mine), len(others))
        return mine[:shared] == others[:shared] or mine > others

    @property
    def in_full(self) -> CutFault:
        """Return the same fault with a draw in which all is tried."""
        return self if self.draw is None else replace(self, draw=replace(self.draw, until="trains"))


def fault_of(
    what: str, error: Exception, network: nn.Module, groups: Sequence[PruningGroup], begun: Mapping[str, int]
) -> CutFault:
    """Return the fault that an exception of a cut network's forward pass is.

    Args:
        what: failed.
        error: what was raised.
        network: the dense one.
        groups: that were cut; numbers are looked for if it is one.
        begun: module → when it began in a forward pass of the dense one.
    """
    numbers, shares = (
        tuple(_numbers(error, network, groups[0], with_shares=each)) if len(groups) == 1 else ()
        for each in (False, True)
    )
    return CutFault(f"{what}: {where(error)}", _progress(error, begun), numbers, shares, lines=_lines(error))


def _progress(error: Exception, begun: Mapping[str, int]) -> tuple[float, ...]:
    """Return how far a pass came: for each running module, from the outside, when it began, and its line."""
    found, paths, before = list[float](), dict[int, str](), None
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = _owner(frame)
        if module is None or module is before or frame.f_code.co_name in _CALLS:
            continue
        if not paths:  # the first is the whole network
            paths = {id(each): path for path, each in module.named_modules()}
        found += [begun.get(paths.get(id(module), ""), 0), line]
        before = module
    return tuple(found[2:])


def _owner(frame: types.FrameType) -> nn.Module | None:
    """Return the module whose function a frame is: its first argument, or else a module that it holds."""
    held = [value for value in frame.f_locals.values() if isinstance(value, nn.Module)]
    module = frame.f_locals.get("self")
    return module if isinstance(module, nn.Module) else held[0] if held else None


def _lines(error: Exception) -> tuple[int, ...]:
    """Return the line that each of the user's running functions was at, from the outside."""
    return tuple(frame.lineno or 0 for frame in _users_frames(error))


def _users_frames(error: Exception) -> list[traceback.FrameSummary]:
    frames = traceback.extract_tb(error.__traceback__)
    return [frame for frame in frames if not frame.filename.startswith(NOT_THE_USERS)]


def where(error: Exception) -> str:
    """Return an error with the line of the user's own code that it came from."""
    frames = _users_frames(error)
    last = frames[-1] if frames else None
    line = f" ({Path(last.filename).name}:{last.lineno}, in {last.name}: {last.line})" if last else ""
    return f"{str(error).splitlines()[0] if str(error) else type(error).__name__}{line}"


def _numbers(
    error: Exception, network: nn.Module, group: PruningGroup, *, with_shares: bool
) -> Iterator[tuple[Member, ...]]:
    """Yield, for each function that was running, the numbers that it may have read; the innermost first."""
    running = list(_running(error))
    if not running:
        return
    paths = {id(module): path for path, module in running[0][0].named_modules()}
    dense = dict(network.named_modules())
    for module, on_line, anywhere in reversed(running):
        path = paths.get(id(module))
        if path is not None and path in dense and kind_of(module) is None:
            for names in (on_line, anywhere):
                yield from filter(None, [members_for(network, path, group, names, with_shares=with_shares)])


def _running(error: Exception) -> Iterator[tuple[nn.Module, set[str], set[str]]]:
    """Yield the modules whose functions were running, the outermost first, with the names that each function reads.

    The names on the line that was running come first, then those of the whole function.

    A function without a module of its own, as a helper, reads on behalf of the one that called it.
    """
    running: list[tuple[nn.Module, set[str], set[str]]] = []
    lines = traceback.extract_tb(error.__traceback__)
    for (frame, _), said in zip(traceback.walk_tb(error.__traceback__), lines, strict=True):
        on_line = _names_on(said)
        owner = _owner(frame)
        if owner is not None:
            running.append((owner, on_line, set(frame.f_code.co_names)))
        elif running:
            running[-1][1].update(on_line)
            running[-1][2].update(frame.f_code.co_names)
    yield from running


def _names_on(said: traceback.FrameSummary) -> set[str]:
    """Return the attributes that the running statement names."""
    first = said.lineno or 0
    text = "".join(linecache.getline(said.filename, line) for line in range(first, (said.end_lineno or first) + 1))
    return set(re.findall(r"\.(\w+)", text))


def members_for(
    network: nn.Module,
    path: str,
    group: PruningGroup,
    names: Iterable[str] | None = None,
    *,
    with_shares: bool = False,
) -> tuple[Member, ...]:
    """Return the numbers of a module that count a group's channels, as members of the group.

    Args:
        network: the dense one.
        path: of the module.
        group: whose channels.
        names: attributes that are looked at; ``None`` for all.
        with_shares: whether numbers count too that are several for each channel, and a part of what it owns in a layer.
    """
    found = []
    wanted = None if names is None else set(names)
    numbers = numbers_of(network.get_submodule(path))
    for side, value in numbers.items():
        name, _, place = side.removeprefix(NUMBER).partition(".")
        if wanted is not None and name not in wanted:
            continue
        before = [v for s, v in numbers.items() if _is_before(s, name, place)] if place else []
        total = sum(v for s, v in numbers.items() if name_of(s) == name) if place else 0
        if place and any(size == total for _, size in _sized(network, group)):
            member = _as_part(network, path, side, value, group, sum(before), total)
        else:
            member = _as_member(network, path, side, value, group, with_shares=with_shares)
        found += [member] if member is not None else []
    return tuple(found)


def _is_before(side: str, name: str, place: str) -> bool:
    other, _, index = side.removeprefix(NUMBER).partition(".")
    return other == name and index != "" and int(index) < int(place)


def _as_part(
    network: nn.Module, path: str, side: str, value: int, group: PruningGroup, first: int, total: int
) -> Member | None:
    """Return one number of a list that splits a layer's channels as a member of a group, ``None`` if it is none.

    Args:
        network: the dense one.
        path: of the module that keeps the list.
        side: the number's.
        value: the number.
        group: whose channels.
        first: how many channels the numbers before it count.
        total: how many all of them do.
    """
    for member, size in _sized(network, group):
        inside = [[i - first for i in member.of(c) if first <= i < first + value] for c in range(group.num_channels)]
        if size == total and len({len(each) for each in inside}) == 1 and inside[0]:
            return Member(path, side, tuple(i for each in inside for i in each), len(inside[0]))
    return None


def _sized(network: nn.Module, group: PruningGroup) -> Iterator[tuple[Member, int]]:
    """Yield the sides of layers among a group's members, with how many channels each has in all."""
    for member in group.members:
        if not member.side.startswith(NUMBER):
            yield member, sizes_of(network, member.module)[member.side]


def _as_member(
    network: nn.Module, path: str, side: str, value: int, group: PruningGroup, *, with_shares: bool
) -> Member | None:
    """Return one number as a member of a group if it counts its channels, ``None`` if it does not."""
    for member, size in _sized(network, group):
        if size == value:
            return Member(path, side, member.indices, member.width)
    widths = [member.width for member in group.members]
    share, rest = divmod(value, group.num_channels)
    is_share = with_shares and not rest and any(share and not width % share for width in widths)
    for width in dict.fromkeys([1, *widths, *([share] if is_share else [])]):
        if value == width * group.num_channels:
            return Member(path, side, tuple(range(value)), width)
    return None
