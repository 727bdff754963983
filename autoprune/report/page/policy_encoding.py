"""Thousands of policies in little room, for a page that shows any two of them side by side.

A policy is two short strings, in the order of the network's groups: how many channels each keeps, in base 36 at a
fixed width, and by which criterion, one character each. What few policies have, dropped blocks and masks, is listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autoprune.core.policy import PruningPolicy

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
UNKNOWN = 1000  # channels that a group is given if the study does not say; what is kept is then per mille


def encode_policies(policies: Sequence[PruningPolicy], channels: Mapping[str, int]) -> dict[str, object]:
    """Return policies as plain types for JSON.

    Args:
        policies: any number of one network's.
        channels: group → channels in the dense network, as a study stores them; empty in studies that do not.

    Returns:
        ``groups`` with name, channels and whether these are known, ``blocks``, ``criteria`` and ``layers`` in order;
        ``width`` of a count; and ``kept``, ``criterion``, ``dropped``, ``masks``, one entry for each policy.

    >>> policy = PruningPolicy.uniform(0.25, "l1", names=["conv1"])
    >>> found = encode_policies([policy], {"conv1": 48})
    >>> found["kept"], found["criterion"], found["criteria"]
    (['10'], ['0'], ['l1'])
    """
    names = list(dict.fromkeys([*channels, *(name for policy in policies for name in policy.groups)]))
    counts = [channels.get(name, UNKNOWN) for name in names]
    criteria = sorted({group.importance for policy in policies for group in policy.groups.values()})
    blocks = sorted({name for policy in policies for name in policy.dropped_blocks})
    layers = sorted({name for policy in policies if policy.mask for name in policy.mask.layers})
    width = len(in_base(max(counts, default=0), 1))
    texts = [in_base(count, width) for count in range(max(counts, default=0) + 1)]
    code = {name: in_base(index, 1) for index, name in enumerate(criteria)}
    return {
        "groups": [
            {"name": name, "channels": count, "known": name in channels}
            for name, count in zip(names, counts, strict=True)
        ],
        "criteria": criteria,
        "blocks": blocks,
        "layers": layers,
        "width": width,
        "code_width": max((len(text) for text in code.values()), default=1),
        "kept": [_kept(policy, names, counts, texts) for policy in policies],
        "criterion": [_criteria(policy, names, code) for policy in policies],
        "dropped": [[blocks.index(name) for name in policy.dropped_blocks] for policy in policies],
        "masks": [_mask(policy, layers) for policy in policies],
    }


def kept_channels(sparsity: float, channels: int) -> int:
    """Return how many channels of a group stay: the nearest count, the larger of two equally near.

    >>> kept_channels(0.375, 16), kept_channels(0.5, 5)
    (10, 3)
    """
    return int(channels * (1 - sparsity) + 0.5 + 1e-9)


def in_base(number: int, width: int) -> str:
    """Return a number in base 36, at least ``width`` characters long.

    >>> in_base(37, 1), in_base(5, 2)
    ('11', '05')
    """
    text = ""
    while number or not text:
        number, rest = divmod(number, len(DIGITS))
        text = DIGITS[rest] + text
    return text.rjust(width, "0")


def _kept(policy: PruningPolicy, names: Sequence[str], channels: Sequence[int], texts: Sequence[str]) -> str:
    groups = map(policy.groups.get, names)
    return "".join(
        [
            texts[kept_channels(group.sparsity, count) if group else count]
            for group, count in zip(groups, channels, strict=True)
        ]
    )


def _criteria(policy: PruningPolicy, names: Sequence[str], code: Mapping[str, str]) -> str:
    """Return the criterion of each group; whole groups, and those not named, have a dot."""
    width = max((len(text) for text in code.values()), default=1)
    parts = []
    for name in names:
        group = policy.groups.get(name)
        parts.append(code[group.importance].rjust(width, "0") if group and group.sparsity > 0 else "." * width)
    return "".join(parts)


def _mask(policy: PruningPolicy, layers: Sequence[str]) -> dict[str, object] | None:
    if policy.mask is None:
        return None
    shares = {layers.index(name): sparsity for name, sparsity in policy.mask.layers.items()}
    return {"pattern": policy.mask.pattern, "criterion": policy.mask.criterion, "layers": shares}
