"""Which images a network got right, packed into text; and how far apart two networks are that saw the same images.

Two accuracies on the same images err together: most images are right for both networks or wrong for both. Only the
images on which they disagree tell them apart, so comparing image by image is sharper than comparing two accuracies.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PairedScores:
    """Which images of a split a network got right, in the split's order.

    Attributes:
        text: the number of images, a colon, and one bit for each image in base64: what is stored.

    >>> PairedScores.pack([True, False, True])
    PairedScores(text='3:oA==')
    >>> PairedScores("3:oA==").unpack().tolist()
    [True, False, True]
    """

    text: str

    @classmethod
    def pack(cls, right: Sequence[bool] | NDArray[np.bool_]) -> PairedScores:
        """Pack booleans of shape ``(count,)``."""
        bits = np.asarray(right, dtype=bool)
        return cls(f"{len(bits)}:{base64.b64encode(np.packbits(bits).tobytes()).decode('ascii')}")

    @property
    def count(self) -> int:
        """Return the number of images.

        Raises:
            ValueError: if the text does not begin with it.
        """
        digits = self.text.partition(":")[0]
        if not (digits.isascii() and digits.isdigit()):
            raise ValueError(f"hits {self.text[:40]!r} do not begin with the number of images; expected '3:oA=='")
        return int(digits)

    def unpack(self) -> NDArray[np.bool_]:
        """Return the booleans, shape ``(count,)``.

        Raises:
            ValueError: if the text is damaged.
        """
        try:
            packed = base64.b64decode(self.text.partition(":")[2], validate=True)
        except binascii.Error as error:
            raise ValueError(f"hits {self.text[:40]!r} are not base64 ({error}); expected '3:oA=='") from error
        if len(packed) != math.ceil(self.count / 8):
            raise ValueError(f"hits {self.text[:40]!r} hold {len(packed)} bytes, too many or too few for their count")
        return np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=self.count).astype(bool)


def paired_difference(one: PairedScores, other: PairedScores) -> tuple[float, float]:
    """Return accuracy of ``one`` − accuracy of ``other`` on the same images, and the standard error of that.

    With d in {−1, 0, 1} for each image, the difference is mean(d). Its standard error is std(d) / √n over d and two
    more images that are supposed, each of which one network alone got right. The textbook's, without them, is zero for
    two networks that agree on ten images, and calls a difference of four images significant that chance alone makes
    in one case of eight.

    Args:
        one: n ≥ 1 images.
        other: the same images in the same order.

    Raises:
        ValueError: if there is no image, or they are not equally many.

    >>> one, other = PairedScores.pack([True] * 90 + [False] * 10), PairedScores.pack([True] * 86 + [False] * 14)
    >>> gain, error = paired_difference(one, other)
    >>> round(gain, 3), round(error, 3)
    (0.04, 0.024)

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12 (1947); Dietterich, "Approximate statistical tests for comparing supervised classification learning
    algorithms", Neural Computation 10 (1998), section 3; the two supposed images: Bonett and Price, "Adjusted Wald
    confidence interval for a difference of binomial proportions based on paired data", Journal of Educational and
    Behavioral Statistics 37 (2012).
    """
    if one.count != other.count or not one.count:
        raise ValueError(
            f"one network was scored on {one.count} images and the other on {other.count}; "
            f"only hits on the same images can be compared one by one"
        )
    differences = one.unpack().astype(np.int64) - other.unpack()
    supposed = np.append(differences, [1, -1])
    return float(differences.mean()), float(supposed.std(ddof=1)) / math.sqrt(len(supposed))
