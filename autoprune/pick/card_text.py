"""The card of a pruned network as Markdown: what it costs, what it is worth, and how it came to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autoprune.analysis.comparison import Scored, compare
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import METRICS, Metric
from autoprune.core.number_formats import NUMBERS
from autoprune.export.card import Card
from autoprune.export.card_origin import AppliedPolicy, ContenderRow, MaskFacts, PickedTrial
from autoprune.export.card_parts import FRESH_PROCESS, CardFile, CardScores, FolderFacts, ScoreGain
from autoprune.export.export_result import Agreement, ExportedFile
from autoprune.export.picked_files import WEIGHTS
from autoprune.pick.facts_text import in_words, load_call
from autoprune.pick.int8_text import int8_headline, int8_lines

_COSTS = ("mflops", "mparams", "size_mb", "latency_ms", "nonzero_mflops", "nonzero_mparams")


def card_text(card: Card) -> str:
    """Return a card as Markdown."""
    dropped = [f"- dropped whole: {name}" for name in card.policy.dropped_blocks]
    if isinstance(card.origin, AppliedPolicy):
        return "\n".join([*_applied(card, card.origin), "", *dropped])
    return "\n".join([*_picked(card, card.origin), "", *dropped])


def summary_text(card: Card) -> str:
    """Return the part of a card that a terminal shows: all but how it came to be, and the policy."""
    return card_text(card).partition("\n- fine-tune")[0].partition("\n- seed")[0]


def _picked(card: Card, pick: PickedTrial) -> list[str]:
    return [
        f"# Trial {pick.trial} ({pick.proposed_by})",
        "",
        *int8_headline(card),
        *_figures(card),
        "",
        *_contenders(pick, card.qualities[0]),
        *_files(card),
        "",
        *_facts(card, pick),
        "",
        "```python",
        "import autoprune",
        f"network = {load_call(card.weights.model, '.')}  # this folder",
        "```",
        "",
        "Without autoprune, thirty lines of PyTorch do it: docs/how-to/pick-a-network.md of its repository.",
        "",
        "| group | sparsity | importance |",
        "|---|---|---|",
        *(f"| {name} | {group.sparsity:.3f} | {group.importance} |" for name, group in card.policy.groups.items()),
    ]


def _applied(card: Card, applied: AppliedPolicy) -> list[str]:
    trained = "batch norm was recalibrated, nothing more" if card.data else "nothing was trained or recalibrated"
    return [
        f"# {card.weights.model}, pruned by a policy",
        "",
        *int8_headline(card),
        *_figures(card),
        "",
        *_files(card),
        "",
        f"- the policy was made for {applied.model or 'a network that it does not name'}",
        f"- not fine-tuned: {trained}",
        *(f"- {note}" for note in applied.notes),
        f"- {card.flop_convention}; not counted: {', '.join(card.uncounted)}",
        f"- data: {in_words(card.data.to_json()) if card.data else 'none was given'}",
        f"- weights: {card.weights.weights or 'none were given'}; licence: {card.weights.licence}",
        f"- seed: {card.seed}",
        f"- measured on: {in_words(card.runtime)}",
        f"- versions: {in_words(card.versions)}",
        "",
        "| group | channels | kept | importance |",
        "|---|---|---|---|",
        *(f"| {name} | {row.channels} | {row.kept} | {row.importance} |" for name, row in applied.groups.items()),
    ]


def _figures(card: Card) -> list[str]:
    """Return the table of scores and costs, the pruned network's against each one it is compared with."""
    others = {"dense": card.dense}
    if isinstance(card.origin, PickedTrial) and card.origin.uniform:
        others = {"uniform": card.origin.uniform.scores, **others}
    lines = [
        f"| | pruned | {' | '.join([*others, *(f'against {name}' for name in others)])} |",
        f"|---|---|{'---|' * 2 * len(others)}",
    ]
    lines += [
        f"| {quality.name} on {split} | {' | '.join(_scores(card, others, split, quality))} |"
        for quality in card.qualities
        for split in ("test", "validation")
        if _score_on(split, card.scores, quality) is not None
    ]
    costs = [one.validation for one in (card.scores, *others.values())]
    for name in (name for name in _COSTS if name in costs[0].values):
        ratios = [f"× {costs[0][name] / other[name]:.3f}" for other in costs[1:]]
        row = f"{name} in {NUMBERS[card.size_format]}" if name == "size_mb" else name
        lines.append(f"| {row} | {' | '.join([*(_cost(one, name) for one in costs), *ratios])} |")
    return lines


def _scores(card: Card, others: Mapping[str, CardScores], split: str, quality: Metric) -> list[str]:
    """Return the cells of a row: a quality of each network, and the pruned one's gain over each of the others."""
    known = {name: _score_on(split, one, quality) for name, one in {"": card.scores, **others}.items()}
    own, leads = known[""], quality == card.qualities[0]
    gains = [
        card.against[name][split] if leads and found else _unpaired(own, found, quality) if own and found else None
        for name, found in known.items()
        if name
    ]
    return [
        *(_quality(found, quality) if found else "–" for found in known.values()),
        *(_gain(g, quality) for g in gains),
    ]


def _unpaired(one: Measurement, other: Measurement, quality: Metric) -> ScoreGain:
    """Return by how much a network is better, of a metric of which no example's score is stored."""
    told = compare(Scored("", None, one), Scored("", None, other), quality)
    return ScoreGain(told.difference, told.stderr, quality.name, paired=False)


def _score_on(split: str, scores: CardScores, quality: Metric) -> Measurement | None:
    found = scores.test if split == "test" else scores.validation
    return found if found is not None and quality.name in found.values else None


def _files(card: Card) -> list[str]:
    """Return the files that hold the network, each as it was checked and timed in its own runtime."""
    folder = card.written
    lines = [
        "| file | MB | of dense | against PyTorch | runtime | latency on a CPU | of dense |",
        "|---|---|---|---|---|---|---|",
    ]
    own = folder.files[WEIGHTS]
    timed = [(WEIGHTS, own.runtime or "", own.latency, f"the same answers {_where(folder)}")]
    timed += [(one.file, one.runtime, one.latency, _agreement(one.agreement)) for one in folder.exported]
    files = {**folder.files, **{one.file: _whole(one, folder) for one in folder.exported if one.beside}}
    for name, runtime, timing, agrees in timed:
        if timing is not None:
            lines.append(
                f"| {name} | {_size(files[name])} | {agrees} | {runtime} {card.versions.get(runtime, '')} | "
                f"{timing.pruned_ms:.3f} ms | × {timing.ratio:.3f} ± {timing.ratio_stderr:.3f} |"
            )
    failed = [f"- {one.file} was not written: {one.failure}" for one in folder.failed]
    note = folder.wanted.note
    fixed = [f"- {one.file} takes inputs {one.facts['shapes']}" for one in folder.exported if "shapes" in one.facts]
    if card.latency.host:
        fixed.append(f"- the files are timed where they were written; the latency above is that of {card.latency.host}")
    if own.latency is not None and own.latency.batch is None:
        fixed.append("- latency is that of one batch as it is, whose examples cannot be told apart")
    return [*lines, "", *failed, *fixed, *([f"- {note}"] if note else []), *int8_lines(card), *_checks(folder)]


def _whole(one: ExportedFile, folder: FolderFacts) -> CardFile:
    """Return the sizes of a format that has several files."""
    return CardFile(sum(folder.files[name].bytes for name in (one.file, *one.beside)), one.dense_bytes)


def _size(file: CardFile) -> str:
    return f"{file.bytes / 1e6:.3f} | × {file.bytes / (file.dense_bytes or file.bytes):.3f}"


def _agreement(found: Agreement) -> str:
    shares = f"{found.examples} {found.kind}"
    if found.equal_answers is not None:
        shares = f"{100 * found.equal_answers:.2f} % of the answers to {shares} equal"
    ours, theirs = found.score, found.reference_score
    if ours is not None and theirs is not None and ours != theirs:
        is_share = found.metric == "accuracy"
        shown = f"{100 * ours:.2f} for {100 * theirs:.2f} %" if is_share else f"{ours:.5g} for {theirs:.5g}"
        shares += f", {found.metric} {shown}"
    return f"within {found.max_difference:.1e}; {shares}"


def _checks(folder: FolderFacts) -> list[str]:
    """Return which checks the folder has passed, and which do not apply to it."""
    passed = ", ".join(check.name for check in folder.checks if check.passed)
    idle = [f"- not checked: {one.name}: {one.detail}" for one in folder.checks if one.passed is None]
    return [*([f"- checked {_where(folder)}: {passed}"] if passed else []), *idle]


def _where(folder: FolderFacts) -> str:
    """Return which process loaded the files to check them."""
    is_fresh = all(check.name != FRESH_PROCESS for check in folder.checks)
    return "in a fresh process" if is_fresh else "once loaded again"


def _contenders(pick: PickedTrial, quality: Metric) -> list[str]:
    """Return how the contenders of the longer fine-tune fared, if there were several."""
    if len(pick.contenders) < 2:
        return []
    borders = pick.finetune.borders
    rungs = [rung.validation for one in pick.contenders for rung in one.rungs]
    has_loss = not (rungs and all(quality.is_the_loss(found.values) for found in rungs))
    known = [*([METRICS["loss"]] if has_loss else []), quality]
    lines = [
        f"| contender | from | {' | '.join(f'after {100 * share:g} %' for share in borders)} | |",
        f"|---|---|{'---|' * len(borders)}---|",
    ]
    for one in pick.contenders:
        scores = [_values_of(rung.validation, known) for rung in one.rungs]
        cells = [str(one.trial), one.origin, *scores, *[""] * (len(borders) - len(scores))]
        lines.append(f"| {' | '.join([*cells, _ending(one)])} |")
    what, judge = (f"loss and {quality.name}", "loss") if has_loss else (quality.name, quality.name)
    return [*lines, "", f"Validation {what} after each part; the better half by {judge} went on.", ""]


def _ending(contender: ContenderRow) -> str:
    if contender.failure:
        return f"failed: {' '.join(contender.failure.split())}".replace("|", "/")
    left = contender.left_behind
    return "picked" if left is None else f"left behind at {100 * left:g} %"


def _values_of(found: Measurement, metrics: Sequence[Metric]) -> str:
    known = dict.fromkeys(metrics)
    return ", ".join(one.with_unit(found[one.name]) for one in known if one.name in found.values)


def _facts(card: Card, pick: PickedTrial) -> list[str]:
    """Return how a picked network came to be, one fact a line."""
    test = "scored on test once, after the last decision" if card.scores.test else "the data has no test split"
    uniform = (
        f"uniform: trial {pick.uniform.trial}, made for the same budget and fine-tuned in the same way"
        if pick.uniform
        else f"not compared with uniform: {pick.uniform_missing}"
    )
    return [
        _budget(card, pick),
        *_preferred(pick),
        f"- {uniform}",
        f"- {card.flop_convention}; not counted: {', '.join(card.uncounted)}",
        f"- selected on validation; {test}; ± is one standard error{_of_differences(card)}",
        f"- fine-tune: {in_words(pick.finetune.to_json())}",
        *(_mask(pick.mask) if pick.mask else ()),
        f"- data: {in_words(card.data.to_json() if card.data else {})}",
        f"- licence of the weights: {card.weights.licence}",
        f"- seed: {card.seed}",
        f"- measured on: {in_words(card.runtime)}",
        f"- latency timed by: {in_words(card.latency.to_json())}",
        f"- versions: {in_words(card.versions)}",
    ]


def _of_differences(card: Card) -> str:
    """Return what the standard errors of differences are those of."""
    gains = [gain for by_split in card.against.values() for gain in by_split.values() if gain.stderr is not None]
    is_paired, others = any(gain.paired for gain in gains), card.qualities[1:]
    of_lead = f" in {card.qualities[0].name}" if others else ""
    known = [f", of differences{of_lead} that of the paired answers to the same examples"] if is_paired else []
    if others or not all(gain.paired for gain in gains):
        known.append(f", of {'other ' if is_paired else ''}differences that of two scores taken apart, often too large")
    return "".join(known)


def _preferred(pick: PickedTrial) -> list[str]:
    """Return that the fastest or the smallest of the trials was picked, if it was."""
    words = {"latency": "fastest", "size": "smallest"}
    if pick.prefer not in words:
        return []
    return [
        f"- preferred by {pick.prefer}: of the trials that are equally good, or good enough, the {words[pick.prefer]}"
    ]


def _budget(card: Card, pick: PickedTrial) -> str:
    limits = ", ".join(f"{name} ≤ {limit.value:g}" for name, limit in sorted(pick.budget.limits.items())) or "none"
    over = [
        f"{name} is {METRICS[name].show(card.scores.validation[name])}, {100 * excess:.2g} % above"
        for name, excess in pick.not_met.items()
    ]
    return f"- budget: {limits}{'; NOT MET: ' if over else ''}{', '.join(over)}"


def _mask(mask: MaskFacts) -> Sequence[str]:
    """Return what a card says of a mask: dense costs are those of the shapes, which a mask does not change."""
    left = ", ".join(f"{layer} ({reason})" for layer, reason in mask.left_dense.items()) or "none"
    return [
        f"- mask {mask.pattern} by {mask.criterion}: MFLOPs and latency are those of dense shapes; {mask.kernels}",
        f"- left dense by the mask: {left}",
        "- training the network further lets masked weights grow back, unless zeros are held",
    ]


def _cost(found: Measurement, name: str) -> str:
    """Return a cost with its unit, and with its standard error if it was measured."""
    error = found.error(name)
    return f"{METRICS[name].show(found[name])}{f' ± {error:.2g}' if error else ''} {METRICS[name].unit}"


def _quality(found: Measurement, quality: Metric) -> str:
    value, error = quality.with_unit(found[quality.name]), found.stderr.get(quality.name)
    return value if error is None else f"{value} ± {quality.number(error)}"


def _gain(gain: ScoreGain | None, quality: Metric) -> str:
    """Return by how much the pruned network is better; a sign says so only where larger is better."""
    if gain is None:
        return "–"
    if gain.stderr is None:
        return f"{_change(quality.gap(gain.gain, '+'), gain.gain, quality)}, no standard error"
    if not gain.gain and not gain.stderr:
        return "no example differs"  # and not ± 0: more examples might
    change, _, unit = quality.gap(gain.gain, "+").partition(" ")
    return f"{_change(change, gain.gain, quality)} ± {quality.number(gain.stderr)} {unit}".rstrip()


def _change(text: str, gain: float, quality: Metric) -> str:
    if quality.goal == "max":
        return text
    return f"{'worse' if gain < 0 else 'better'} by {text[1:]}"
