"""The ``[budget]`` of a study's spec: a limit for every cost metric there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationInfo, create_model, field_validator

from autoprune.core.budget import Limit
from autoprune.core.metrics import METRICS, metric
from autoprune.errors import BudgetError
from autoprune.study.spec_base import Section, fault


class _Limits(Section):
    """What the network may cost: a number in the metric's unit, or a share of the dense network such as 40%.

    Limits are held as text, as ``Budget.parse`` reads it. The text ``none`` lifts a limit that a
    lower layer set.
    """

    @field_validator("*", mode="before")
    @classmethod
    def _canonical(cls, value: Any, info: ValidationInfo) -> str | None:
        if value is None or (isinstance(value, str) and value.strip().lower() == "none"):
            return None
        try:
            Limit.parse(value, str(info.field_name))
        except BudgetError as error:
            unit = metric(str(info.field_name)).unit
            raise fault(
                f"expected a positive number of {unit}, a share of the dense network such as 40%, or none"
            ) from error
        text = "".join(str(value).split())
        number = text.rstrip("%kKMG")
        return repr(float(number)).removesuffix(".0") + text[len(number) :]


if TYPE_CHECKING:

    class BudgetSpec(_Limits):
        """What the network may cost; see :class:`_Limits`."""

else:
    BudgetSpec = create_model(
        "BudgetSpec",
        __base__=_Limits,
        __doc__=_Limits.__doc__,
        **{
            known.name: (str | None, Field(default=None, description=known.help))
            for known in METRICS.values()
            if known.is_cost
        },
    )
