"""Pictures are cropped to the body, and heat maps end at it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicom_qa_node.spool.rendered_images import (
    INDEX,
    ImageManifest,
    RenderedSlice,
    StoredLayer,
    heat_name,
    manifest_to_json,
)
from dicom_qa_node.web.body_crop import Box, body_of, crop_of
from dicom_qa_node.web.slice_images import Look, draw, heat_overlay, thumbnail

ROWS, COLUMNS = 240, 320


def ellipse(row: float, column: float, high: float, wide: float) -> np.ndarray:
    y, x = np.mgrid[:ROWS, :COLUMNS]
    return ((y - row) / high) ** 2 + ((x - column) / wide) ** 2 <= 1


BODY = ellipse(120, 150, 50, 80)


def write(folder: Path, *bodies: np.ndarray, air: np.ndarray | None = None) -> ImageManifest:
    slices = []
    for number, body in enumerate(bodies, start=1):
        hu = np.where(body, 40.0, -1000.0)
        if air is not None:
            hu[air] = -1000.0
        hu[200:203, 20:300] = 200.0  # a table
        Image.fromarray((hu + 1024).astype(np.uint16)).save(folder / f"slice_{number}.png")
        grey = np.clip((hu + 160) / 400 * 255, 0, 255).astype(np.uint8)
        Image.fromarray(np.repeat(grey[..., None], 3, axis=2)).save(folder / f"display_{number}.png")
        Image.fromarray(np.full((ROWS, COLUMNS), 255, np.uint8)).save(folder / heat_name(number))
        layer = StoredLayer(f"slice_{number}.png", "HU", 1.0, -1024.0, 0.0, -160.0, 240.0)
        slices.append(
            RenderedSlice(
                number,
                f"1.{number}",
                None,
                number,
                float(number),
                f"display_{number}.png",
                ROWS,
                COLUMNS,
                (1.0, 1.0),
                (layer,),
            )
        )
    manifest = ImageManifest("ct", tuple(slices))
    (folder / INDEX).write_bytes(manifest_to_json(manifest))
    return manifest


def opened(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def test_the_box_holds_the_body_of_every_slice_and_no_table(tmp_path):
    manifest = write(tmp_path, BODY, ellipse(110, 190, 40, 60))
    box = crop_of(tmp_path, manifest.slices[0])
    assert box is not None
    assert box == crop_of(tmp_path, manifest.slices[1])
    margin = round(0.04 * COLUMNS)
    wanted = (70 - margin, 171 + margin, 70 - margin, 251 + margin)
    assert (box.top, box.bottom, box.left, box.right) == pytest.approx(wanted, abs=5)


def test_two_legs_are_both_the_body(tmp_path):
    legs = ellipse(120, 90, 30, 30) | ellipse(120, 230, 22, 22)
    box = crop_of(tmp_path, write(tmp_path, legs).slices[0])
    assert box is not None
    assert box.left < 62
    assert box.right > 250


def test_lungs_belong_to_the_body(tmp_path):
    manifest = write(tmp_path, BODY, air=ellipse(120, 150, 30, 50))
    body = body_of(tmp_path, manifest.slices[0])
    assert body is not None
    assert body[120, 150]
    assert abs(int(body.sum()) - int(BODY.sum())) < 0.03 * BODY.sum()


def test_a_body_that_fills_the_image_is_not_cropped(tmp_path):
    assert crop_of(tmp_path, write(tmp_path, ellipse(120, 160, 119, 159)).slices[0]) is None


def test_an_image_of_air_and_a_folder_that_is_gone_are_not_cropped(tmp_path):
    manifest = write(tmp_path, np.zeros((ROWS, COLUMNS), bool))
    assert crop_of(tmp_path / "none", manifest.slices[0]) is None
    for item in manifest.slices:
        (tmp_path / item.layers[0].file).unlink()
    assert body_of(tmp_path, manifest.slices[0]) is not None
    (tmp_path / manifest.slices[0].display).unlink()
    assert body_of(tmp_path, manifest.slices[0]) is None


def test_every_look_is_cropped_alike(tmp_path):
    item = write(tmp_path, BODY).slices[0]
    box = Box(60, 180, 60, 240)
    for look in (Look.JUDGED, Look.SOFT, Look.LUNG):
        whole, part = opened(draw(tmp_path, item, look)), opened(draw(tmp_path, item, look, box))
        assert np.array_equal(part, whole[60:180, 60:240]), look
    assert opened(thumbnail(tmp_path, write(tmp_path, BODY), 1)).shape[0] < ROWS


def test_a_heat_map_ends_at_the_body(tmp_path):
    item = write(tmp_path, BODY).slices[0]
    cover = opened(heat_overlay(tmp_path, item))[..., 3]
    inside, outside = cover[ellipse(120, 150, 46, 76)], cover[~ellipse(120, 150, 54, 84)]
    assert inside.min() > 0
    assert outside.max() == 0
    box = Box(60, 180, 60, 240)
    assert np.array_equal(opened(heat_overlay(tmp_path, item, box))[..., 3], cover[60:180, 60:240])


def test_without_values_the_picture_decides(tmp_path):
    item = write(tmp_path, BODY).slices[0]
    (tmp_path / item.layers[0].file).unlink()
    cover = opened(heat_overlay(tmp_path, item))[..., 3]
    assert cover[120, 150] > 0
    assert cover[20, 20] == 0
