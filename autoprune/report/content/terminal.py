"""The report on a terminal, a pipe or a file: a headline, the table, what it means, and notes.

Everything is laid out for 80 columns. No text is read as markup, so a name or an error message may contain
brackets.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from autoprune.core.int8_loss import INT8_GAIN
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import FLOP_CONVENTION, METRICS, Metric
from autoprune.core.number_formats import NUMBERS, SIZES
from autoprune.errors import printable
from autoprune.report.content.quality_words import best_of_all, plus_minus, with_unit_of
from autoprune.report.content.rows import Failure, Row, cost_ratios, duration, generalisation_gap, short
from autoprune.report.content.sensitivity_text import sensitivity_lines
from autoprune.report.content.summary import Summary

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

BEST, KNEE = "★", "◆"
LEFT_ALIGNED = ("", "from")
FURTHER = 14  # characters that a further quality takes of the width
INT8_WIDTH = 13  # columns that what is lost in int8 takes
FAILURES_SHOWN = 5
ROOMY = 90  # least width at which the gaps between columns can be two wide


def render(summary: Summary, console: Console) -> None:
    """Print the report; a console that is not a terminal gets no colours."""
    from rich.text import Text

    for number, line in enumerate(headline(summary)):
        console.print(Text(line, style="bold" if number == 0 else ""))
    console.print()
    console.print(front_table(summary, console.width))
    for line in ("", *caption(summary)):
        console.print(Text(line, style="dim"))
    sections = (
        ("notes", list(summary.notes)),
        ("sensitivity", sensitivity_lines(summary.sensitivity)),
        ("failures", list(failure_lines(summary.failures))),
    )
    for title, lines in sections:
        if lines:
            console.print(Text(f"\n{title}", style="bold"))
            for line in lines:
                console.print(_bullet(line))
    console.print()
    console.print(Text(counts_line(summary)))


def front_text(summary: Summary, width: int = 100) -> str:
    """Return the report as plain lines of at most ``width`` characters."""
    from rich.console import Console

    buffer = io.StringIO()
    console = Console(file=buffer, width=width, force_terminal=False, force_jupyter=False, color_system=None)
    render(summary, console)
    return "\n".join(line.rstrip() for line in printable(buffer.getvalue()).splitlines()) + "\n"


def headline(summary: Summary) -> tuple[str, ...]:
    """Return the study with its budget, and the best network for it with every ratio to the dense one."""
    limits = f"budget {summary.budget.describe()}" if summary.budget.limits else "no budget"
    title = f"{summary.study} · {limits}"
    best = summary.best
    if best is None and not summary.counts["completed"]:
        return title, "no completed trial yet"
    if best is None:
        return title, f"no trial of {summary.counts['completed']} completed ones meets the budget"
    kind = "best within budget" if summary.budget.limits else best_of_all(summary.quality)
    return title, f"{kind}: trial {best.number} ({best.origin})", *describe(best, summary)


def describe(row: Row, summary: Summary) -> tuple[str, str]:
    """Return what a network has, each with its ratio to the dense one, in two lines."""
    qualities = [_against_dense(row.measurement, summary.dense, one) for one in summary.qualities]
    shown = {name: with_unit_of(METRICS[name], plus_minus(row.measurement, METRICS[name])) for name in row.ratios}
    told = {name: _ratio_text(name, ratio) for name, ratio in row.ratios.items()}
    if "size_mb" in shown:
        shown["size_mb"] += f" in {NUMBERS[summary.size_format]}"
    beside = summary.times_float32(row.measurement)
    if beside and "latency_ms" in told:
        shown["latency_ms"] += " in int8"
        told["latency_ms"] += f" as dense, {beside:.2f}× as dense in float32"
    parts = [f"{text} ({told[name]})" for name, text in shown.items()]
    return ", ".join([*qualities, *_in_int8(row.measurement, summary.quality), *parts[:1]]), ", ".join(parts[1:])


def _in_int8(measurement: Measurement, quality: Metric) -> list[str]:
    """Return what the network loses in int8 against itself in float32, where that was measured."""
    gain = measurement.values.get(INT8_GAIN)
    if gain is None:
        return []
    by = f"{quality.gap(gain, '+')} ± {quality.number(measurement.error(INT8_GAIN))}"
    return [f"in int8 {'as much' if not gain else by}"]


def _against_dense(measurement: Measurement, dense: Measurement, quality: Metric) -> str:
    if quality.name not in measurement.values:
        return f"{quality.name} not measured"
    values = [with_unit_of(quality, plus_minus(one, quality)) for one in (measurement, dense)]
    return f"{quality.name} {values[0]} (dense {values[1]})"


def caption(summary: Summary) -> tuple[str, ...]:
    """Return what the table's marks, blocks and units mean."""
    kind = "best within budget" if summary.budget.limits else best_of_all(summary.quality)
    marks = [f"{BEST} {kind}"] if summary.best else []
    marks += [f"{KNEE} knee of the front"] if summary.knee else []
    without = [one.name for one in summary.qualities if one.name not in summary.dense.stderr]
    lacking = f", which {' and '.join(without)} {'has' if len(without) == 1 else 'have'} not" if without else ""
    units = f"{FLOP_CONVENTION[:1].upper()}{FLOP_CONVENTION[1:]}; ± is one standard error{lacking}."
    units += f" Sizes are of {SIZES[summary.size_format]}."
    if not summary.counts["completed"]:
        return (units,)
    beaten = "no other beats beyond noise" if summary.noise_aware else "no other dominates, noise or not"
    return (
        *(["  ".join(marks)] if marks else []),
        f"First block: the front in {', '.join(summary.objectives)}, trials that {beaten}. Below: others to compare "
        f"with, and the dense network. {units} Hypervolume {summary.hypervolume:.4f}, as a share of the box between "
        f"{worst_of(summary.quality)} at dense cost and perfection.",
    )


def counts_line(summary: Summary) -> str:
    """Return how many trials ended how, and where the time went."""
    kinds = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in summary.counts.items() if count)
    finished = sum(summary.counts.values())
    parts = [f"{finished} finished" + (f": {kinds}" if kinds else "")]
    if summary.running:
        parts.append(f"{summary.running} running or interrupted")
    parts.append(f"{summary.sessions} run{'' if summary.sessions == 1 else 's'}")
    if summary.total_seconds > 0:
        largest = [f"{name} {100 * spent / summary.total_seconds:.0f} %" for name, spent in summary.seconds.items()]
        parts.append(f"{duration(summary.total_seconds)} in trials ({', '.join(largest[:3])})")
    return "trials: " + "; ".join(parts)


def failure_lines(failures: tuple[Failure, ...]) -> Iterator[str]:
    """Yield one line per reason, with the trials that failed for it; the rest are only counted."""
    struck: dict[tuple[str, str], list[int]] = {}
    for failure in failures:
        struck.setdefault((failure.error, failure.message), []).append(failure.number)
    for (error, message), numbers in list(struck.items())[:FAILURES_SHOWN]:
        listed = ", ".join(map(str, numbers[:FAILURES_SHOWN])) + (" …" if len(numbers) > FAILURES_SHOWN else "")
        yield f"{'trial' if len(numbers) == 1 else 'trials'} {listed}: {error}{f': {message}' if message else ''}"
    if len(struck) > FAILURES_SHOWN:
        yield f"{len(struck) - FAILURES_SHOWN} more reasons are in front.json"


def worst_of(quality: Metric) -> str:
    """Return in words from where the hypervolume is measured.

    >>> worst_of(METRICS["accuracy"]), worst_of(Metric("rmse"))
    ('no accuracy', "twice the dense network's rmse")
    """
    return f"no {quality.name}" if quality.goal == "max" else f"twice the dense network's {quality.name}"


def columns(
    qualities: Sequence[Metric], size_format: str = "fp32", *, has_int8: bool = False
) -> tuple[tuple[str, int], ...]:
    """Return each column's heading, and the least width of the console at which it is shown.

    What is lost is called a drop, or a rise where smaller is better.

    Args:
        qualities: what networks are judged by.
        size_format: of sizes.
        has_int8: whether a column says what networks lose in int8.
    """
    leading, *others = qualities
    lost = "drop" if leading.goal == "max" else "rise"
    int8 = INT8_WIDTH if has_int8 else 0
    wider = FURTHER * len(others) + int8
    return (
        ("", 0),
        ("trial", 0),
        ("from", 0),
        (_heading(leading.name, leading), 0),
        (_heading(lost, leading), 66),
        *([(_heading("in int8", leading), 66 + int8)] if has_int8 else []),
        *((_heading(one.name, one), 66 + int8 + FURTHER * place) for place, one in enumerate(others, start=1)),
        ("MFLOPs\n(of dense)", 0),
        ("latency\nms", 0),
        ("speed-\nup", 66),
        ("params\nM", 78 + wider),
        (f"{NUMBERS[size_format] if size_format != 'fp32' else 'size'}\nMB", 78 + wider),
        (f"train\n− val {leading.unit}".rstrip(), 104 + wider),
    )


def _heading(words: str, metric: Metric) -> str:
    return f"{words}\n{metric.unit}"


def front_table(summary: Summary, width: int) -> Table:
    """Lay out the table with the columns that a width has room for."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    headings = columns(summary.qualities, summary.size_format, has_int8=summary.has_int8)
    shown = [index for index, (_, least) in enumerate(headings) if width >= least]
    gap = 1 if width >= ROOMY else 0  # beside the one that the box has
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap, 0, 0))
    for heading in (headings[index][0] for index in shown):
        justify: Literal["left", "right"] = "left" if heading in LEFT_ALIGNED else "right"
        table.add_column(Text(heading), justify=justify, overflow="fold")
    last_of_front = len(summary.front) - 1  # the front comes first
    for position, row in enumerate(summary.rows):
        cells = _row_cells(row, summary)
        table.add_row(*(Text(cells[index]) for index in shown), style="bold" if row.is_best else "")
        if position == last_of_front:
            table.add_section()
    table.add_section()
    cells = _dense_cells(summary)
    table.add_row(*(Text(cells[index]) for index in shown), style="dim")
    return table


def _row_cells(row: Row, summary: Summary) -> list[str]:
    marks = (BEST if row.is_best else "") + (KNEE if row.is_knee else "")
    return [
        marks,
        str(row.number),
        row.origin,
        *_measured_cells(row.measurement, row.ratios, row.quality_drop, summary),
    ]


def _dense_cells(summary: Summary) -> list[str]:
    return ["", "", "dense", *_measured_cells(summary.dense, cost_ratios(summary.dense, summary.dense), 0.0, summary)]


def _measured_cells(measurement: Measurement, ratios: Mapping[str, float], drop: float, summary: Summary) -> list[str]:
    leading, *others = summary.qualities
    share, slower, gap = ratios.get("mflops"), ratios.get("latency_ms"), generalisation_gap(measurement, leading)
    return [
        _quality(measurement, leading),
        leading.number(drop),
        *([_int8_cell(measurement, leading)] if summary.has_int8 else []),
        *(_quality(measurement, one) for one in others),
        _cost(measurement, "mflops") + (f" ({100 * share:.0f}%)" if share is not None else ""),
        _cost(measurement, "latency_ms"),
        f"{1 / slower:.2f}×" if slower else "",
        _cost(measurement, "mparams"),
        _cost(measurement, "size_mb"),
        leading.number(gap) if gap is not None else "–",
    ]


def _int8_cell(measurement: Measurement, quality: Metric) -> str:
    """Return by how much a network is better in int8 than in float32; a dash where that was not measured."""
    gain = measurement.values.get(INT8_GAIN)
    if gain is None:
        return "–"
    signed = quality.gap(gain, "+").partition(" ")[0] if gain else quality.number(0.0)
    return f"{signed} ±{quality.number(measurement.error(INT8_GAIN))}"


def _quality(measurement: Measurement, metric: Metric) -> str:
    return plus_minus(measurement, metric).replace("± ", "±") if metric.name in measurement.values else "–"


def _cost(measurement: Measurement, name: str) -> str:
    if name not in measurement.values:
        return "–"
    error = measurement.error(name)
    return short(measurement[name]) + (f" ±{error:.2g}" if error else "")


def _ratio_text(name: str, ratio: float) -> str:
    if name == "latency_ms":
        return f"{1 / ratio:.2f}× as fast" if ratio else "too fast to time"
    return f"{100 * ratio:.0f} %{' of dense' if name == 'mflops' else ''}"


def _bullet(line: str) -> Table:
    """Return a line whose continuation is indented."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_row(Text("·"), Text(line))
    return grid
