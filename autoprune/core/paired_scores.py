"""What a network made of each example, packed into text; and how far apart two networks are that saw the same ones.

Two scores over the same examples err together: most examples are easy for both networks or hard for both. Comparing
example by example is therefore sharper than comparing two scores. Three things can be stored: which examples were
right; a score of each, whose mean is the metric; or, of a metric that is no mean, its values over resampled examples.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autoprune.core.arrays import Floats

ScoreKind = Literal["right", "scores", "resampled"]
_SCORES, _RESAMPLED = "scores", "resampled"


@dataclass(frozen=True)
class PairedScores:
    """What a network made of the examples of a split, in the split's order.

    Attributes:
        text: what is stored: the number of examples, a colon, and in base64 one bit for each that is right; or the
            kind, the number of examples and float32 numbers, separated by colons.

    >>> PairedScores.pack([True, False, True])
    PairedScores(text='3:oA==')
    >>> PairedScores("3:oA==").unpack().tolist()
    [1.0, 0.0, 1.0]
    """

    text: str

    @classmethod
    def pack(cls, scores: Sequence[bool] | NDArray[np.bool_] | Floats) -> PairedScores:
        """Pack one score for each example, shape ``(count,)``; booleans say which were right."""
        given = np.asarray(scores)
        if given.dtype == bool:
            return cls(f"{len(given)}:{_encoded(np.packbits(given))}")
        return cls(f"{_SCORES}:{len(given)}:{_encoded(given.astype('<f4'))}")

    @classmethod
    def resampled(cls, value: float, replicates: Floats, count: int) -> PairedScores:
        """Pack a metric over ``count`` examples that is no mean, and its values over resampled ones."""
        return cls(f"{_RESAMPLED}:{count}:{_encoded(np.array([value, *replicates], dtype='<f4'))}")

    @property
    def kind(self) -> ScoreKind:
        """Return what is stored."""
        word = self.text.partition(":")[0]
        return "scores" if word == _SCORES else "resampled" if word == _RESAMPLED else "right"

    @property
    def count(self) -> int:
        """Return the number of examples.

        Raises:
            ValueError: if the text does not begin with it.
        """
        text = self.text if self.kind == "right" else self.text.partition(":")[2]
        digits = text.partition(":")[0]
        if not (digits.isascii() and digits.isdigit()):
            raise ValueError(f"scores {self.text[:40]!r} do not begin with the number of examples; expected '3:oA=='")
        return int(digits)

    def unpack(self) -> Floats:
        """Return one score for each example, ``(count,)``; of resampled ones the metric, then its values over them.

        Raises:
            ValueError: if the text is damaged.
        """
        try:
            packed = base64.b64decode(self.text.rpartition(":")[2], validate=True)
        except binascii.Error as error:
            raise ValueError(f"scores {self.text[:40]!r} are not base64 ({error}); expected '3:oA=='") from error
        expected = math.ceil(self.count / 8) if self.kind == "right" else 4 * self.count
        if self.kind == "resampled" and len(packed) >= 12 and not len(packed) % 4:
            expected = len(packed)
        if len(packed) != expected:
            raise ValueError(f"scores {self.text[:40]!r} hold {len(packed)} bytes, too many or too few for their count")
        if self.kind == "right":
            bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=self.count)
            return bits.astype(np.float64)
        found = np.frombuffer(packed, dtype="<f4").astype(np.float64)
        if not np.isfinite(found).all():
            raise ValueError(f"scores {self.text[:40]!r} are not all finite; expected finite numbers")
        return found

    def is_comparable(self, other: PairedScores) -> bool:
        """Return whether both hold the same of equally many examples."""
        return (self.kind, self.count) == (other.kind, other.count) and (
            self.kind != "resampled" or len(self.text) == len(other.text)
        )


def _encoded(numbers: NDArray[np.uint8] | NDArray[np.float32]) -> str:
    return base64.b64encode(numbers.tobytes()).decode("ascii")


def paired_difference(one: PairedScores, other: PairedScores) -> tuple[float, float]:
    """Return score of ``one`` − score of ``other`` on the same examples, and the standard error of that.

    Where a score is a mean over examples, with d their differences, the difference is mean(d), its standard error
    std(d) / √n. Where examples are right or wrong, d is in {−1, 0, 1}, and two more are supposed, each of which one
    network alone got right. The textbook's, without them, is zero for two networks that agree on ten examples, and
    calls a difference of four examples significant that chance alone makes in one case of eight. Of a metric that is
    no mean, the standard error is the standard deviation of the differences over resampled examples, which are the
    same for both networks.

    Args:
        one: n ≥ 1 examples.
        other: the same examples in the same order.

    Raises:
        ValueError: if there is no example, or not the same is known of both.

    >>> one, other = PairedScores.pack([True] * 90 + [False] * 10), PairedScores.pack([True] * 86 + [False] * 14)
    >>> gain, error = paired_difference(one, other)
    >>> round(gain, 3), round(error, 3)
    (0.04, 0.024)

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12 (1947); Dietterich, "Approximate statistical tests for comparing supervised classification learning
    algorithms", Neural Computation 10 (1998), section 3; the two supposed examples: Bonett and Price, "Adjusted Wald
    confidence interval for a difference of binomial proportions based on paired data", Journal of Educational and
    Behavioral Statistics 37 (2012); the resampling: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993),
    chapter 6.
    """
    if not one.is_comparable(other) or not one.count:
        raise ValueError(
            f"one network was scored on {one.count} examples ({one.kind}) and the other on {other.count} "
            f"({other.kind}); only the same of the same examples can be compared one by one"
        )
    differences = one.unpack() - other.unpack()
    if one.kind == "resampled":
        return float(differences[0]), float(differences[1:].std(ddof=1))
    supposed = np.append(differences, [1, -1]) if one.kind == "right" else differences
    spread = float(supposed.std(ddof=1)) if len(supposed) > 1 else 0.0
    return float(differences.mean()), spread / math.sqrt(len(supposed))
