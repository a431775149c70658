"""Fit the domain of the CT models, and judge it on scanner models and outliers that each fold leaves out.

python -m training.ct_domain --cache CACHE --csv training/results/ct_domain.csv --weights WEIGHTS
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dicom_qa_node.models.card import DomainFile, measured_to_json, read_measured
from dicom_qa_node.models.ct_domain import fit_ct_domain, pack
from training.ct_table import FOLDS, STATISTICS, CtTable, read_table
from training.feature_cache import Rows, read_cache

__all__ = ["judge_domain", "ship_domain"]

Floats = npt.NDArray[np.float32]

_OUTSIDE = ("natural_", "petct_", "phantom_", "limb_")
_FILE = "efficientnet_lite0.ct_domain.safetensors"


def _inputs(rows: Rows) -> Floats:
    return np.concatenate([rows.arrays[name] for name in STATISTICS], 1)


def _fold_of(rows: Rows) -> npt.NDArray[np.int64]:
    return np.array([zlib.crc32(str(name).encode()) % FOLDS for name in rows.column("patient")])


def judge_domain(table: CtTable, outliers: Rows, generated: Rows) -> Iterator[tuple[str, int, float]]:
    """Yield (kind, pictures, share outside) of pictures whose group the fit did not see."""
    x, other, made = table.inputs, _inputs(outliers), _inputs(generated)
    fold, of_other, of_made = table.fold, _fold_of(outliers), _fold_of(generated)
    inside, outside, ours = np.zeros(len(x)), np.zeros(len(other)), np.zeros(len(made))
    for k in range(FOLDS):
        seen = np.concatenate([x[table.trains(fold == k)], made[of_made != k]])
        domain = fit_ct_domain(seen, other[of_other != k])
        inside[fold == k] = domain.strangeness(x[fold == k])
        outside[of_other == k] = domain.strangeness(other[of_other == k])
        ours[of_made == k] = domain.strangeness(made[of_made == k])
    source, version = table.rows.column("source"), table.rows.column("version")
    scanners = (source == "multiscanner") & ~table.extra
    kinds = {
        "unseen scanner, routine": inside[scanners & (version == "routine")],
        "unseen scanner, degraded": inside[scanners & (version != "routine")],
        "reader study": inside[source == "reader"],
        "generated patients": ours,
    }
    kind_of = outliers.column("source")
    kinds |= {str(name): outside[kind_of == name] for name in sorted(set(kind_of))}
    for name, values in kinds.items():
        yield name, len(values), float(np.mean(values > 1))


def ship_domain(table: CtTable, outliers: Rows, generated: Rows, folder: Path) -> None:
    """Fit on everything and write the file beside the encoder, and its checksum into the encoder's card."""
    content = pack(fit_ct_domain(np.concatenate([table.inputs, _inputs(generated)]), _inputs(outliers)))
    (folder / _FILE).write_bytes(content)
    card = folder / "efficientnet_lite0.json"
    measured = read_measured(card)
    if measured is None:
        raise SystemExit(f"{card} is missing")
    domain = DomainFile(_FILE, hashlib.sha256(content).hexdigest(), {})
    card.write_text(measured_to_json(replace(measured, domain=domain)))


def main() -> None:
    """Judge, and ship where a folder is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--weights", type=Path)
    arguments = parser.parse_args()
    table = read_table(arguments.cache, ())
    outliers = read_cache(arguments.cache, _OUTSIDE, STATISTICS)
    generated = read_cache(arguments.cache, ("generated_",), STATISTICS)
    if arguments.weights:
        ship_domain(table, outliers, generated, arguments.weights)
    if arguments.csv:
        with arguments.csv.open("w", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(["kind", "pictures", "outside"])
            for name, count, share in judge_domain(table, outliers, generated):
                writer.writerow([name, count, f"{share:.3f}"])


if __name__ == "__main__":
    main()
