"""The card of a picked network as Markdown: what it costs, what it is worth, and how it came to be.

``finish`` makes the card, which is plain JSON, and writes both files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoprune.core.metrics import METRICS

_COSTS = ("mflops", "mparams", "size_mb", "latency_ms", "nonzero_mflops", "nonzero_mparams")


def card_text(card: Mapping[str, Any]) -> str:
    """Return a card as Markdown."""
    return "\n".join(
        [
            f"# Trial {card['trial']} ({card['origin']})",
            "",
            *_figures(card),
            "",
            *_contenders(card),
            *_files(card),
            "",
            *_facts(card),
            "",
            "```python",
            "import autoprune",
            "network = autoprune.load('.')  # this folder",
            "```",
            "",
            "Without autoprune, thirty lines of PyTorch do it: docs/how-to/pick-a-network.md in its repository.",
            "",
            "| group | sparsity | importance |",
            "|---|---|---|",
            *(f"| {name} | {sparsity:.3f} | {how} |" for name, (sparsity, how) in card["policy"]["groups"].items()),
            "",
            *(f"- dropped whole: {name}" for name in card["policy"].get("dropped_blocks", ())),
        ]
    )


def applied_text(card: Mapping[str, Any]) -> str:
    """Return the card of a network that a stored policy was applied to as Markdown."""
    made_for = card["made_for"]
    data = card["data"]
    return "\n".join(
        [
            f"# {card['weights']['model']}, pruned by a policy",
            "",
            *_figures(card),
            "",
            *_files(card),
            "",
            f"- the policy was made for {made_for['model'] or 'a network that it does not name'}",
            "- not fine-tuned: "
            + ("batch norm was recalibrated, nothing more" if data else "nothing was trained or recalibrated"),
            *(f"- {note}" for note in card["notes"]),
            f"- {card['flop_convention']}; not counted: {', '.join(card['uncounted'])}",
            f"- data: {in_words(data) if data else 'none was given'}",
            f"- weights: {card['weights']['weights'] or 'none were given'}; licence: {card['weights']['licence']}",
            f"- seed: {card['seed']}",
            f"- measured on: {in_words(card['runtime'])}",
            f"- versions: {in_words(card['versions'])}",
            "",
            "| group | channels | kept | importance |",
            "|---|---|---|---|",
            *(
                f"| {name} | {group['channels']} | {group['kept']} | {group['importance']} |"
                for name, group in card["groups"].items()
            ),
            "",
            *(f"- dropped whole: {name}" for name in card["policy"].get("dropped_blocks", ())),
        ]
    )


def summary_text(card: Mapping[str, Any]) -> str:
    """Return the part of a card that a terminal shows: all but how it came to be, and the policy."""
    text = applied_text(card) if card.get("kind") == "applied" else card_text(card)
    return text.partition("\n- fine-tune")[0].partition("\n- seed")[0]


def _figures(card: Mapping[str, Any]) -> list[str]:
    """Return the table of scores and costs, the picked network's against each one it is compared with."""
    others = {name: card[name] for name in ("uniform", "dense") if card.get(name)}
    lines = [
        f"| | pruned | {' | '.join([*others, *(f'against {name}' for name in others)])} |",
        f"|---|---|{'---|' * 2 * len(others)}",
    ]
    for split in ("test", "validation"):
        if card.get(split) and "accuracy" in card[split]["values"]:
            shown = [_accuracy(one[split]) for one in (card, *others.values())]
            gains = [_difference(card["against"][name][split]) for name in others]
            lines.append(f"| accuracy on {split} | {' | '.join([*shown, *gains])} |")
    for name in _COSTS:
        if name in card["validation"]["values"]:
            known = [one["validation"]["values"][name] for one in (card, *others.values())]
            shown = [_cost(one["validation"], name) for one in (card, *others.values())]
            lines.append(f"| {name} | {' | '.join([*shown, *(f'× {known[0] / value:.3f}' for value in known[1:])])} |")
    return lines


def _files(card: Mapping[str, Any]) -> list[str]:
    """Return the files that hold the network, each as it was checked and timed in its own runtime."""
    versions, exports = card["versions"], card["exports"]
    own = {"file": "model.safetensors", **card["files"]["model.safetensors"]}
    lines = [
        "| file | MB | of dense | against PyTorch | runtime | latency on a CPU | of dense |",
        "|---|---|---|---|---|---|---|",
    ]
    for found in (own, *(one for one in exports.values() if "failure" not in one)):
        runtime, timing = found["runtime"], found["latency"]
        agrees = _agreement(found["agreement"]) if "agreement" in found else "the same answers in a fresh process"
        lines.append(
            f"| {found['file']} | {_size(card['files'][found['file']])} | {agrees} | {runtime} "
            f"{versions.get(runtime, '')} | {timing['pruned_ms']:.3f} ms | × {timing['ratio']:.3f} ± "
            f"{timing['ratio_stderr']:.3f} |"
        )
    failed = [f"- {one['file']} was not written: {one['failure']}" for one in exports.values() if "failure" in one]
    note = card["exports_wanted"]["note"]
    return [*lines, "", *failed, *([f"- {note}"] if note else []), *_check_lines(card)]


def _size(file: Mapping[str, int]) -> str:
    return f"{file['bytes'] / 1e6:.3f} | × {file['bytes'] / file['dense_bytes']:.3f}"


def _agreement(found: Mapping[str, Any]) -> str:
    shares = f"{100 * found['equal_answers']:.2f} % of the answers to {found['images']} {found['kind']} equal"
    if found["accuracy"] != found["reference_accuracy"]:
        shares += f", accuracy {100 * found['accuracy']:.2f} for {100 * found['reference_accuracy']:.2f} %"
    return f"within {found['max_difference']:.1e}; {shares}"


def _check_lines(card: Mapping[str, Any]) -> list[str]:
    """Return which checks the folder has passed, and which do not apply to it."""
    passed = ", ".join(check["name"] for check in card["checks"] if check["passed"])
    idle = [f"- not checked: {one['name']}: {one['detail']}" for one in card["checks"] if one["passed"] is None]
    return [*([f"- checked in a fresh process: {passed}"] if passed else []), *idle]


def _contenders(card: Mapping[str, Any]) -> list[str]:
    """Return how the contenders of the longer fine-tune fared, if there were several."""
    if len(card["contenders"]) < 2:
        return []
    borders = card["finetune"]["borders"]
    lines = [
        f"| contender | from | {' | '.join(f'after {100 * share:g} %' for share in borders)} | |",
        f"|---|---|{'---|' * len(borders)}---|",
    ]
    for one in card["contenders"]:
        scores = [_rung(rung["validation"]) for rung in one["rungs"]]
        cells = [str(one["trial"]), one["origin"], *scores, *[""] * (len(borders) - len(scores))]
        lines.append(f"| {' | '.join([*cells, _ending(one)])} |")
    return [*lines, "", "Validation loss and accuracy after each part; the better half by loss went on.", ""]


def _ending(contender: Mapping[str, Any]) -> str:
    if contender["failure"]:
        return f"failed: {' '.join(contender['failure'].split())}".replace("|", "/")
    left = contender["left_behind"]
    return "picked" if left is None else f"left behind at {100 * left:g} %"


def _rung(measurement: Mapping[str, Any]) -> str:
    values = measurement["values"]
    return f"{METRICS['loss'].show(values['loss'])}, {METRICS['accuracy'].show(values['accuracy'])}"


def _facts(card: Mapping[str, Any]) -> list[str]:
    budget = ", ".join(f"{name} ≤ {float(limit):g}" for name, limit in card["budget"].items()) or "none"
    over = [
        f"{name} is {METRICS[name].show(card['validation']['values'][name])}, {100 * excess:.2g} % above"
        for name, excess in card.get("not_met", {}).items()
    ]
    test = "scored on test once, after the last decision" if card["test"] else "the data has no test split"
    uniform = (
        f"uniform: trial {card['uniform']['trial']}, made for the same budget and fine-tuned in the same way"
        if card["uniform"]
        else f"not compared with uniform: {card['uniform_missing']}"
    )
    return [
        f"- budget: {budget}{'; NOT MET: ' if over else ''}{', '.join(over)}",
        f"- {uniform}",
        f"- {card['flop_convention']}; not counted: {', '.join(card['uncounted'])}",
        f"- selected on validation; {test}; ± is one standard error, of differences that of the paired answers to the "
        "same images",
        f"- fine-tune: {in_words(card['finetune'])}",
        *_mask_lines(card),
        f"- data: {in_words(card['data'])}",
        f"- licence of the weights: {card['weights']['licence']}",
        f"- seed: {card['seed']}",
        f"- measured on: {in_words(card['runtime'])}",
        f"- latency timed by: {in_words(card['latency'])}",
        f"- versions: {in_words(card['versions'])}",
    ]


def _mask_lines(card: Mapping[str, Any]) -> list[str]:
    """Return what a card says of masks: dense costs are those of the shapes, which a mask does not change."""
    mask = card.get("mask")
    if not mask:
        return []
    left = ", ".join(f"{layer} ({reason})" for layer, reason in mask["left_dense"].items()) or "none"
    return [
        f"- mask {mask['pattern']} by {mask['criterion']}: MFLOPs and latency are those of dense shapes; "
        f"{mask['kernels']}",
        f"- left dense by the mask: {left}",
        "- training the network further lets masked weights grow back, unless zeros are held",
    ]


def in_words(facts: Mapping[str, Any]) -> str:
    """Return facts as a line of text.

    >>> in_words({"name": "digits", "sizes": {"train": 2, "val": 1}, "borders": [0.5, 1.0], "distill": True})
    'name digits, sizes (train 2, val 1), borders 0.5 1, distill yes'
    """
    return ", ".join(f"{name.replace('_', ' ')} {_word(value)}" for name, value in facts.items())


def _word(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({in_words(value)})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " ".join(map(_word, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cost(measurement: Mapping[str, Any], name: str) -> str:
    """Return a cost with its unit, and with its standard error if it was measured."""
    value, error = measurement["values"][name], measurement["stderr"].get(name)
    return f"{METRICS[name].show(value)}{f' ± {error:.2g}' if error else ''} {METRICS[name].unit}"


def _accuracy(measurement: Mapping[str, Any]) -> str:
    value, error = measurement["values"]["accuracy"], measurement["stderr"]["accuracy"]
    return f"{100 * value:.2f} % ± {100 * error:.2f}"


def _difference(gain: Mapping[str, float]) -> str:
    if not gain["accuracy"] and not gain["stderr"]:
        return "no image differs"  # and not ± 0: more images might
    change = 100 * gain["accuracy"] + 0.0  # never -0.00
    return f"{change:+.2f} ± {100 * gain['stderr']:.2f} points"
