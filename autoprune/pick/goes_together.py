"""What cannot be asked of one pick at once: the rule of ``autoprune pick`` and of ``Study.pick``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autoprune.core.preference import Preference
from autoprune.errors import UsageError


def check_goes_together(
    *,
    trial: int | None,
    top: int | None,
    prefer: Preference | None,
    limits: Sequence[str],
    epochs: float | None,
    qat: bool | None,
    called: Callable[[str], str] = str,
) -> None:
    """Raise if what is asked of a pick excludes itself.

    Args:
        trial: the one to finish, ``None`` for the best.
        top: how many begin, ``None`` for the study's own.
        prefer: what decides between several, ``None`` for the study's own.
        limits: what limits of quality are called where they were given.
        epochs: of the fine-tune, ``None`` for the study's own.
        qat: whether it is trained with the rounding of int8.
        called: an argument of this function → what the user calls it.

    Raises:
        UsageError: naming both, and which to leave out.

    >>> check_goes_together(trial=3, top=None, prefer="size", limits=(), epochs=None, qat=None)
    Traceback (most recent call last):
    autoprune.errors.UsageError: trial finishes one trial alone, and prefer chooses between several; leave one out
    """
    alone = f"{called('trial')} finishes one trial alone"
    if trial is not None and top is not None:
        raise UsageError(
            f"{called('top')} and {called('trial')} were both given; {alone}, so leave {called('top')} out"
        )
    if trial is not None and prefer is not None:
        raise UsageError(f"{alone}, and {called('prefer')} chooses between several; leave one out")
    if qat and epochs == 0:
        raise UsageError(f"{called('qat')} trains, and {called('epochs')} 0 does not; leave one out")
    if trial is not None and limits:
        raise UsageError(f"{alone}, however good it is; leave {' and '.join(limits)} out")
