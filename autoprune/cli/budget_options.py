"""The ``--budget-…`` options, one for each cost that a metric can be, and the budget they ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from autoprune.cli.headings import Heading, option
from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import METRICS

_F = TypeVar("_F", bound=Callable[..., Any])
COSTS = tuple(name for name, metric in METRICS.items() if metric.is_cost)


def flag_of(cost: str) -> str:
    """Return the option that limits a cost.

    >>> flag_of("latency_ms")
    '--budget-latency-ms'
    """
    return f"--budget-{cost.replace('_', '-')}"


def budget_options(command: _F) -> _F:
    """Add one ``--budget-…`` option for each cost."""
    for cost in reversed(COSTS):
        words = f"At most N {METRICS[cost].help}, or P% of dense."
        command = option(flag_of(cost), f"budget_{cost}", heading=Heading.BUDGET, metavar="N|P%", help=words)(command)
    return command


def budget_values(options: Mapping[str, Any]) -> dict[str, str]:
    """Return metric → text for the ``--budget-…`` options that were given."""
    return {cost: options[f"budget_{cost}"] for cost in COSTS if options.get(f"budget_{cost}") is not None}


def budget_text(limits: Mapping[str, str]) -> str:
    """Return the options that ask for limits, each behind a space.

    >>> budget_text({"mflops": "40%", "latency_ms": "2.5"})
    ' --budget-mflops 40% --budget-latency-ms 2.5'
    """
    return "".join(f" {flag_of(cost)} {text}" for cost, text in limits.items())


def asked_budget(limits: Mapping[str, str], dense: Measurement) -> Budget | None:
    """Return the absolute budget of limits as they were written, ``None`` for none; one above dense is allowed here.

    Raises:
        BudgetError: if a limit is malformed, or on what the study does not measure.
    """
    return Budget.parse(limits).in_units(dense) if limits else None
