"""Describe pictures once and keep what the heads read: one file per slice, resumable, several workers side by side.

    python -m training.feature_cache --data DATA --out CACHE [--only multiscanner reader ...] [--shard 0/2]

Every file holds the features of all versions of one slice (`picture_features.PictureFeatures`, half floats) and a table
of what each version is. A file that exists is left alone, so the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import torch
from PIL import Image

from dicom_qa_node.models.image_features import PictureEncoder, PictureFeatures, describe
from dicom_qa_node.models.torch_engine import open_picture_encoder
from dicom_qa_node.phantom.ct_acquisition import CtQuality
from dicom_qa_node.phantom.volumes import ct_volume
from dicom_qa_node.score import display_images
from training.ct_simulation import versions
from training.data.prepare_severity import noise_level, other_kernel, zoomed

__all__ = ["Item", "Rows", "items", "read_cache"]

ARRAYS = ("pooled", "grid_mean", "grid_sd", "evidence", "bands", "body")
_RATINGS = ("noise", "contrast", "structure")
_READERS = ("r1", "r2", "r3")
_PIXEL_MM = 0.7
_LUNG_THRESHOLD = 161.0
_SIDE = 512
_GENERATED = ((1.0, 720), (0.5, 720), (0.1, 720), (0.05, 720), (1.0, 180), (1.0, 60))


@dataclass(frozen=True)
class Item:
    """One slice to describe; ``pictures`` yields its versions with a record of each."""

    name: str
    pictures: Callable[[], Iterator[tuple[npt.NDArray[np.uint8], dict[str, Any], bool]]]


@dataclass
class Rows:
    """What a cache holds: arrays with one row per picture, and its records."""

    arrays: dict[str, npt.NDArray[np.float32]]
    table: list[dict[str, Any]] = field(default_factory=list)

    def column(self, name: str, default: Any = "") -> npt.NDArray[Any]:
        """Return one column of the table as an array."""
        return np.array([row.get(name, default) for row in self.table])

    def where(self, keep: npt.NDArray[np.bool_]) -> Rows:
        """Return the rows that ``keep`` (n,) selects."""
        chosen = np.flatnonzero(keep)
        return Rows({name: value[chosen] for name, value in self.arrays.items()}, [self.table[i] for i in chosen])


def items(data: Path, only: set[str]) -> Iterator[Item]:
    """Yield every slice of the chosen sources, in an order that mixes scanners.

    ``varied1``, ``varied2`` ... are the slices of ``multiscanner`` and ``series`` as other fields of view and kernels
    would show them, for training only.
    """
    sources: dict[str, Callable[[Path], Iterator[Item]]] = {
        "reader": _reader_items,
        "multiscanner": _multiscanner_items,
        "series": _series_items,
        "outside": _outside_items,
        "generated": _generated_items,
        "natural": _natural_items,
        "petct_iqa": _petct_iqa_items,
    }
    for name, source in sources.items():
        if name in only:
            yield from sorted(source(data), key=lambda item: zlib.crc32(item.name.encode()))
    for name in sorted(only):
        if name.startswith("varied"):
            seed = int(name.removeprefix("varied"))
            both = [*_multiscanner_items(data, seed), *_series_items(data, seed)]
            yield from sorted(both, key=lambda item: zlib.crc32(item.name.encode()))


def _dicom_versions(
    path: Path, record: dict[str, Any], simulated: bool, seed: int = 0
) -> Iterator[tuple[Any, dict[str, Any], bool]]:
    ds = pydicom.dcmread(path)
    stored = ds.pixel_array * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))
    hu: npt.NDArray[np.float32] = np.maximum(stored.astype(np.float32), np.float32(-1024.0))
    kernel = str(ds.get("ConvolutionKernel", ""))
    window = display_images.window_for_kernel(kernel)
    pixel = float(ds.PixelSpacing[0])
    rng = np.random.default_rng([zlib.crc32(path.name.encode()), seed])
    if seed and simulated and hu.shape == (_SIDE, _SIDE):
        hu, pixel = other_reconstruction(hu, pixel, rng)
    shared = record | {"window": window.name, "kernel": kernel, "gnl": noise_level(hu), "pixel_mm": pixel}
    if hu.shape[0] != hu.shape[1]:
        simulated = False
    if not simulated:
        yield (
            display_images.ct_display_image(hu, window)[..., 0],
            shared | _done("routine"),
            window is display_images.LUNG,
        )
        return
    for version in versions(hu, pixel, rng, vary=seed > 0):
        known = _done(version.name, version.dose, version.views, version.blur_px, version.sharpen, version.texture)
        yield display_images.ct_display_image(version.hu, window)[..., 0], shared | known, window is display_images.LUNG


def other_reconstruction(
    hu: npt.NDArray[np.float32], pixel_mm: float, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], float]:
    """Return a slice as another field of view or kernel would show it, mirrored now and then, and its pixel size."""
    kind = int(rng.integers(3))
    if kind == 0:
        factor = float(rng.uniform(0.75, 1.3))
        hu, pixel_mm = zoomed(hu, factor), pixel_mm / factor
    elif kind == 1:
        hu = other_kernel(hu, float(rng.uniform(-0.4, 0.7)))
    if rng.random() < 0.5:
        hu = np.ascontiguousarray(hu[:, ::-1])
    return hu, pixel_mm


def _done(
    name: str, dose: float = 1.0, views: int = 720, blur: float = 0.0, sharpen: float = 0.0, texture: str = ""
) -> dict[str, Any]:
    return {"version": name, "dose": dose, "views": views, "blur_px": blur, "sharpen": sharpen, "texture": texture}


def _multiscanner_items(data: Path, seed: int = 0) -> Iterator[Item]:
    folder = data / "ct_multiscanner"
    with (folder / "index.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            record = {
                "source": "multiscanner",
                "patient": row["patient"],
                "model": f"{row['manufacturer']} {row['model']}".strip() or "unnamed " + row["collection"],
                "thickness_mm": row["thickness_mm"],
                "body_part": row["body_part"],
                "ctdivol": row["ctdivol"],
                "inside": row["patient"] not in {"C3N-01192", "ACRIN-FLT-Breast_001"},
                "file": row["file"],
            }
            path = folder / row["file"]
            if record["inside"] or not seed:
                name = f"multiscanner_{path.stem}" if not seed else f"varied{seed}_{path.stem}"
                yield Item(name, partial(_dicom_versions, path, record, bool(record["inside"]), seed))


def _series_items(data: Path, seed: int = 0) -> Iterator[Item]:
    for folder in sorted((data / "dicom" / "ct").iterdir()):
        files = sorted(folder.glob("*")) if folder.is_dir() else []
        loaded = [
            (float(pydicom.dcmread(f, stop_before_pixels=True).ImagePositionPatient[2]), f)
            for f in files
            if f.is_file()
        ]
        ordered = [f for _, f in sorted(loaded)]
        for index in np.linspace(1, len(ordered) - 2, 8).round().astype(int):
            ds = pydicom.dcmread(ordered[index], stop_before_pixels=True)
            record = {
                "source": "series",
                "patient": folder.name,
                "model": f"{ds.Manufacturer} {ds.ManufacturerModelName}",
                "thickness_mm": str(ds.get("SliceThickness", "")),
                "inside": True,
                "file": ordered[index].name,
            }
            name = f"series_{folder.name}_{index}" if not seed else f"varied{seed}_{folder.name}_{index}"
            yield Item(name, partial(_dicom_versions, ordered[index], record, True, seed))


def _outside_items(data: Path) -> Iterator[Item]:
    for path in sorted((data / "dicom" / "ct_phantoms").glob("*.dcm")):
        record = {
            "source": "phantom",
            "patient": path.stem[:12],
            "model": "phantom",
            "inside": False,
            "file": path.name,
        }
        yield Item(f"phantom_{path.stem}", partial(_dicom_versions, path, record, False))
    for folder in sorted((data / "dicom" / "petct").glob("*/CT")):
        files = sorted(folder.glob("*"))
        for index in np.linspace(1, len(files) - 2, 10).round().astype(int):
            patient = folder.parent.name
            record = {"source": "limb", "patient": patient, "model": "limb", "inside": False, "file": files[index].name}
            yield Item(f"limb_{patient}_{index}", partial(_dicom_versions, files[index], record, False))


def _generated_items(_: Path) -> Iterator[Item]:
    """Yield the generated patients that the demo is made of, other seeds: they belong to the domain."""
    for seed in range(9001, 9009):
        for rows in (_SIDE, 256, 128, 64):
            yield Item(f"generated_{seed}_{rows}", partial(_generated_pictures, seed, rows))


def _generated_pictures(seed: int, rows: int) -> Iterator[tuple[Any, dict[str, Any], bool]]:
    rng = np.random.default_rng(seed)
    noise, field_mm = float(rng.uniform(8.0, 14.0)), float(rng.uniform(380.0, 460.0))
    for dose, views in _GENERATED:
        quality = CtQuality(dose_fraction=dose, views=views, noise_hu=noise)
        levels = np.sort(rng.uniform(-170.0, 80.0, 4))
        for hu in ct_volume(seed, levels, rows, field_mm, quality).voxels:
            record = {"source": "generated", "patient": f"generated/{seed}", "model": "generated", "inside": True}
            record |= {"gnl": noise, "window": "soft tissue", "kernel": "", "pixel_mm": field_mm / rows}
            yield display_images.ct_display_image(hu)[..., 0], record | _done("generated", dose, views), False


def _reader_items(data: Path) -> Iterator[Item]:
    folder = data / "ct_reader_study"
    groups: dict[str, list[dict[str, str]]] = {}
    with (folder / "scores_newest.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            groups.setdefault(f"{row['region']}_{row['set']}", []).append(row)
    for name, rows in groups.items():
        yield Item(f"reader_{name}", partial(_reader_pictures, folder, name, rows))
    for name, rows in groups.items():
        if name.startswith("abdomen"):
            yield Item(f"reader_sim_{name}", partial(_reader_simulated, folder, name, rows))


def _reader_pictures(folder: Path, name: str, rows: list[dict[str, str]]) -> Iterator[tuple[Any, dict[str, Any], bool]]:
    for row in rows:
        ratings = {w: [float(row[f"{r}_{w}"]) for r in _READERS] for w in _RATINGS}
        off = max(ratings["contrast"] + ratings["structure"]) > 5 or max(ratings["noise"]) > 14
        with Image.open(folder / row["file"]) as image:
            pixels = np.asarray(image.convert("L"))
        record: dict[str, Any] = {
            "source": "reader",
            "patient": f"reader/{name}",
            "model": "reader",
            "region": row["region"],
        }
        record |= {"method": row["method"], "usable": not off, "inside": True, "file": row["file"]}
        record |= {w: float(np.mean(values)) for w, values in ratings.items()}
        yield pixels, record | {"version": "rated"}, False


def _reader_simulated(
    folder: Path, name: str, rows: list[dict[str, str]]
) -> Iterator[tuple[Any, dict[str, Any], bool]]:
    row = next(row for row in rows if row["label"] == "NDCT")
    with Image.open(folder / row["file"]) as image:
        pixels = np.asarray(image.convert("L"))
    window = display_images.Window("reader study abdomen", 40.0, 400.0)
    hu = np.asarray(
        pixels.astype(np.float32) / 255 * window.width_hu + window.centre_hu - window.width_hu / 2, np.float32
    )
    hu[pixels == 0] = -1000.0
    record = {
        "source": "reader_sim",
        "patient": f"reader/{name}",
        "model": "reader",
        "inside": True,
        "file": row["file"],
    }
    record |= {"gnl": noise_level(hu), "pixel_mm": _PIXEL_MM, "window": window.name}
    for version in versions(hu, _PIXEL_MM, np.random.default_rng(zlib.crc32(name.encode()))):
        known = _done(version.name, version.dose, version.views, version.blur_px, version.sharpen, version.texture)
        yield display_images.ct_display_image(version.hu, window)[..., 0], record | known, False


def _natural_items(data: Path) -> Iterator[Item]:
    folder = data / "natural_iqa"
    with (folder / "mos.csv").open(newline="") as stream:
        rows = [list(row.values()) for row in csv.DictReader(stream)]
    for start in range(0, len(rows), 50):
        yield Item(f"natural_{start:04d}", partial(_natural_pictures, folder, rows[start : start + 50]))


def _natural_pictures(folder: Path, rows: list[list[str]]) -> Iterator[tuple[Any, dict[str, Any], bool]]:
    for file, mos in rows:
        with Image.open(folder / "images" / Path(file).name) as image:
            pixels = np.asarray(image.convert("RGB"))
        record = {"source": "natural", "patient": Path(file).stem, "model": "natural", "inside": False}
        yield pixels, record | {"mos": float(mos), "file": file, "version": "rated"}, False


def _petct_iqa_items(data: Path) -> Iterator[Item]:
    folder = data / "petct_iqa"
    with (folder / "labels.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for reference in sorted({row["reference"] for row in rows}):
        chosen = [row for row in rows if row["reference"] == reference]
        yield Item(f"petct_{reference}", partial(_petct_pictures, folder, chosen))


def _petct_pictures(folder: Path, rows: list[dict[str, str]]) -> Iterator[tuple[Any, dict[str, Any], bool]]:
    for row in rows:
        with Image.open(folder / "images" / Path(row["file"]).name) as image:
            pixels = np.asarray(image.convert("RGB"))
        record = {"source": "petct_iqa", "patient": f"petct/{row['reference']}", "model": "fused", "inside": False}
        yield pixels, record | {"score": float(row["score"]), "file": row["file"], "version": "rated"}, False


def write_item(item: Item, out: Path, encoder: PictureEncoder) -> None:
    """Describe one slice and write its file, whole or not at all."""
    found: list[PictureFeatures] = []
    table: list[dict[str, Any]] = []
    for picture, record, lung in item.pictures():
        found.append(describe(encoder, picture, _LUNG_THRESHOLD if lung else 20.0, lung))
        table.append(record)
    buffer = io.BytesIO()
    arrays = {name: np.stack([getattr(one, name) for one in found]).astype(np.float16) for name in ARRAYS}
    np.savez(buffer, table=np.frombuffer(json.dumps(table).encode(), np.uint8), **arrays)  # type: ignore[arg-type]
    part = out / f"{item.name}.part"
    part.write_bytes(buffer.getvalue())
    part.rename(out / f"{item.name}.npz")


def read_cache(out: Path, prefixes: tuple[str, ...], arrays: tuple[str, ...] = ("pooled", "evidence", "bands")) -> Rows:
    """Read the slices whose names begin with one of ``prefixes``."""
    columns: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in arrays}
    table: list[dict[str, Any]] = []
    for path in sorted(out.glob("*.npz")):
        if path.name.startswith(prefixes):
            with np.load(path) as stored:
                records = json.loads(stored["table"].tobytes())
                table += [record | {"slice": path.stem, "_index": index} for index, record in enumerate(records)]
                for name in arrays:
                    columns[name].append(stored[name].astype(np.float32))
    return Rows({name: np.concatenate(values) for name, values in columns.items()}, table)


def main() -> None:
    """Describe what is not described yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--only", nargs="+", default=["reader", "multiscanner", "series", "outside", "natural", "petct_iqa"]
    )
    parser.add_argument("--shard", default="0/1", help="this worker's number and how many there are")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    encoder = open_picture_encoder("cpu")
    mine, count = (int(value) for value in arguments.shard.split("/"))
    for index, item in enumerate(items(arguments.data, set(arguments.only))):
        if index % count == mine and not (arguments.out / f"{item.name}.npz").exists():
            write_item(item, arguments.out, encoder)
            print(item.name, flush=True)


if __name__ == "__main__":
    main()
