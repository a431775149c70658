"""Write the generated parts of ``docs/models.md``: ``python -m training.document docs/models.md``.

The cards come from the registry, the comparison of networks from ``training/results/networks.csv``. Everything between
a pair of markers is replaced; the prose around them is written by hand. A test compares.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterator
from pathlib import Path

from dicom_qa_node.models.card import ModelCard
from dicom_qa_node.models.registry import all_cards

__all__ = ["render", "render_comparison", "replace_generated"]

RESULTS = Path(__file__).parent / "results" / "networks.csv"

CT_RESULTS = RESULTS.with_name("ct_networks.csv")

_CT_COMPARED = {
    "ct_routine_below_diagnostic": "routine below diagnostic",
    "ct_routine_below_diagnostic_without_low_dose": "the same without low-dose series",
    "ct_tenth_below_diagnostic": "a tenth of the dose below diagnostic",
    "ct_tenth_drop": "mean drop at a tenth",
    "ct_noise_1.04_same_grade": "x 1.04 noise keeps its grade",
    "ct_dose_spearman": "Spearman with dose",
    "ct_views_spearman": "with views",
    "ct_simulated_rmse": "RMSE, simulated",
    "ct_readers_srocc": "readers, SROCC",
    "ct_readers_abdomen_srocc": "abdomen",
    "ct_readers_brain_srocc": "brain",
    "ct_readers_rmse": "readers, RMSE",
    "ct_pairs_ordered": "quarter-dose pairs ordered",
    "ct_pairs_smallest_step": "smallest step",
    "ct_interval_coverage": "interval covers",
    "ct_interval_half_width": "mean half width",
    "ct_interval_half_width_routine": "at routine",
}

_COMPARED = {
    "petct_plcc": "PET/CT PLCC",
    "petct_srocc": "SROCC",
    "petct_krocc": "KROCC",
    "ct_abdomen_srocc": "abdomen SROCC",
    "ct_brain_srocc": "brain SROCC",
    "ct_dose_spearman": "CT dose",
    "ct_views_spearman": "CT views",
    "ct_blur_spearman": "CT blur",
    "petct_counts_spearman": "PET/CT counts",
}


def render() -> str:
    """Return every card as Markdown."""
    return "\n".join(line for _, card in sorted(all_cards().items()) for line in _card(card))


def _compared_networks() -> set[str]:
    with RESULTS.open(newline="") as stream:
        return {row["network"] for row in csv.DictReader(stream)}


def render_comparison() -> str:
    """Return the table of networks, each figure with its 95 % interval, as Markdown."""
    runs: dict[tuple[str, str, str], dict[str, str]] = {}
    with RESULTS.open(newline="") as stream:
        for row in csv.DictReader(stream):
            runs.setdefault((row["run"], row["steps"], row["folds"]), {})[row["figure"]] = _cell(row)
    lines = [
        f"| run | steps | folds | {' | '.join(_COMPARED.values())} |",
        f"|---|---|---|{'---|' * len(_COMPARED)}",
    ]
    for (run, steps, folds), figures in runs.items():
        lines.append(f"| {run} | {steps} | {folds} | {' | '.join(figures.get(key, '–') for key in _COMPARED)} |")
    return "\n".join(lines) + "\n"


def render_ct() -> str:
    """Return the table of CT runs on held-out groups, each figure with its 90 % interval for the panel."""
    runs: dict[str, dict[str, dict[str, str]]] = {}
    with CT_RESULTS.open(newline="") as stream:
        for row in csv.DictReader(stream):
            runs.setdefault(row["run"], {})[row["figure"]] = row
    lines = [f"| run | {' | '.join(_CT_COMPARED.values())} |", f"|---|{'---|' * len(_CT_COMPARED)}"]
    for run, figures in runs.items():
        cells = [_cell(figures[key]) if run.startswith("panel") else _plain(figures[key]) for key in _CT_COMPARED]
        lines.append(f"| {run} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _plain(row: dict[str, str]) -> str:
    return f"{float(row['value']):.2f}"


def _cell(row: dict[str, str]) -> str:
    """Return a figure with its interval; a constant score has no correlation."""
    value, low, high = (float(row[key]) for key in ("value", "low", "high"))
    return "constant" if math.isnan(value) else f"{value:.2f} ({low:.2f} to {high:.2f})"


def replace_generated(text: str) -> str:
    """Return ``text`` with what is between markers replaced by the cards and results of today."""
    for name, fresh in (
        ("the model cards", render()),
        ("training/results/networks.csv", render_comparison()),
        ("training/results/ct_networks.csv", render_ct()),
    ):
        begin, end = f"<!-- generated from {name}: begin -->", f"<!-- generated from {name}: end -->"
        before, rest = text.split(begin)
        _, after = rest.split(end)
        text = f"{before}{begin}\n\n{fresh}\n{end}{after}"
    return text


def _card(card: ModelCard) -> Iterator[str]:
    yield f"### `{card.name}` {card.version}"
    yield ""
    yield f"{card.title}. {card.paper}."
    yield ""
    low, high = card.score_range
    window, lung, suv = card.input.ct_window_hu, card.input.ct_lung_window_hu, card.input.suv_range
    yield f"- Score: {low:g} (worst) to {high:g} (best); pictures: {', '.join(card.kinds)}"
    yield (
        f"- Input: crops of {card.input.side} x {card.input.side} pixels at native resolution, at most "
        f"{card.input.crops_per_side} x {card.input.crops_per_side}, {card.input.channels} channels of grey / 255"
    )
    yield (
        f"- Windows: CT {window[0]:g} to {window[1]:g} HU (sharp kernels {lung[0]:g} to {lung[1]:g} HU); "
        f"PET SUV {suv[0]:g} to {suv[1]:g}"
    )
    yield f"- Licences: code {card.code_licence}; weights {card.weights_licence or 'none shipped'}"
    if card.cost:
        yield f"- Measured cost: {card.cost}"
    if card.needs_prompt:
        yield "- Prompts: told the dimension, modality, region and type of every picture from its DICOM header"
    if card.measured:
        yield from _measured(card)
    else:
        yield f"- Figures: {'see the comparison' if card.name in _compared_networks() else 'not trained here'}"
    for title, entries in (("Not validated for", card.not_validated_for), ("Known failures", card.failure_modes)):
        if entries:
            yield f"- {title}: {'; '.join(entries)}"
    yield ""


def _measured(card: ModelCard) -> Iterator[str]:
    measured = card.measured
    assert measured is not None
    yield f"- Training data: {card.data_licence}"
    yield f"- Trained on: {measured.trained_on}; {measured.steps} steps, seed {measured.seed}"
    yield f"- Weights: `{measured.file}`, {measured.parameters / 1e6:.2f} M values, SHA-256 `{measured.sha256}`"
    yield ""
    yield "| figure | value | 95 % interval | n | protocol |"
    yield "|---|---|---|---|---|"
    for f in measured.figures:
        yield f"| {f.name} | {f.value:.3f} | {f.low:.3f} to {f.high:.3f} | {f.n} | {f.protocol} |"
    yield ""
    yield "| pictures | 90 % half width | coverage on unseen groups | n | groups | on what |"
    yield "|---|---|---|---|---|---|"
    for kind, c in sorted(measured.calibration.items()):
        yield f"| {kind} | {c.half_width:.2f} | {c.coverage:.1%} | {c.n} | {c.groups} | {c.note} |"
    yield ""
    if measured.domain is not None:
        yield "| domain of | limit of the distance | unseen CT or PET called outside | n |"
        yield "|---|---|---|---|"
        for kind, d in sorted(measured.domain.limits.items()):
            yield f"| {kind} | {d.limit:.2f} | {d.held_out_outside:.1%} | {d.n} |"
        yield ""


def main() -> None:
    """Rewrite the file given on the command line."""
    path = Path(sys.argv[1])
    path.write_text(replace_generated(path.read_text()))


if __name__ == "__main__":
    main()
