"""Prepare KADID-10k (Lin et al., QoMEX 2019) from its official layout: photographs at 125 degradations, with scores.

    python -m training.data.prepare_kadid --source DIR --out POOLS/kadid [--references 20]

``DIR/dmos.csv`` has the columns ``dist_img``, ``ref_img``, ``dmos`` (1-5, higher is better) and ``var``; ``DIR/images``
holds the PNG files. Scores are stretched to 0-4; the pictures of one reference are one group. All 81 take 8 GB.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from training.data.prepare_natural import read_photograph
from training.pool import Row, write_pool

__all__ = ["main", "score_of"]

_WORST, _BEST = 1.0, 5.0


def score_of(dmos: float) -> float:
    """Return the score 0-4 of a DMOS of 1-5."""
    if not _WORST <= dmos <= _BEST:
        raise ValueError(f"a DMOS of {dmos} is not in 1 to 5")
    return 4.0 * (dmos - _WORST) / (_BEST - _WORST)


def read_table(path: Path, references: int | None) -> list[dict[str, str]]:
    """Return the rows of ``dmos.csv``, of the first references only where a number is given."""
    with path.open(newline="") as stream:
        reader = csv.DictReader(stream, skipinitialspace=True)
        missing = {"dist_img", "ref_img", "dmos"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{path} lacks the columns {', '.join(sorted(missing))}")
        records = list(reader)
    taken = set(sorted({record["ref_img"] for record in records})[:references])
    return [record for record in records if record["ref_img"] in taken]


def main() -> None:
    """Write the pool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--references", type=int, help="take this many references only")
    arguments = parser.parse_args()
    records = read_table(arguments.source / "dmos.csv", arguments.references)
    images = [read_photograph(arguments.source / "images" / record["dist_img"]) for record in records]
    rows = []
    for record in records:
        name = f"kadid/{Path(record['ref_img']).stem}"
        score = score_of(float(record["dmos"]))
        rows.append(Row(name, name, "natural", "rated", score, {}, record["dist_img"], {"dimension": "2d"}))
    write_pool(arguments.out, images, rows)


if __name__ == "__main__":
    main()
