"""Render a generated patient: one axial slice in HU or in SUV."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dicom_qa_node.phantom.body_outline import HIGHEST, LOWEST, NECK_BASE, Outline, outline_at
from dicom_qa_node.phantom.organs import paint_organs
from dicom_qa_node.phantom.patient import Patient, fractal_plane
from dicom_qa_node.phantom.projector import FloatArray
from dicom_qa_node.phantom.skeleton import paint_bones
from dicom_qa_node.phantom.voxel_canvas import (
    AIR,
    FAT,
    MUSCLE,
    SKIN,
    TABLE_FOAM,
    TABLE_SHELL,
    VISCERAL_FAT,
    Canvas,
    Channel,
)

_TABLE_TOP_MM = 137.0


def render_slice(
    patient: Patient,
    height_mm: float,
    x_mm: npt.NDArray[np.float64],
    y_mm: npt.NDArray[np.float64],
    channel: Channel,
) -> FloatArray:
    """One slice of the patient, free of noise.

    Parameters
    ----------
    height_mm
        Level above the dome of the diaphragm: upper thigh -410, liver -60, heart 30, shoulders 180, vertex
        450.
    x_mm, y_mm
        Pixel centres towards the patient's left and back, zero at the middle of the scanner.

    Returns
    -------
    FloatArray
        Shape (rows, columns), HU or SUV.
    """
    columns = np.asarray((x_mm - patient.centre_mm[0]) / patient.width, np.float32)
    rows = np.asarray((y_mm - patient.centre_mm[1]) / patient.depth, np.float32)
    bend_u, bend_v = patient.warp.displacement(columns, rows, height_mm)
    offset = patient.texture_mm
    canvas = Canvas(
        u=columns[None, :] + bend_u,
        v=rows[:, None] + bend_v,
        w=height_mm,
        channel=channel,
        texture=fractal_plane(columns + offset[0], rows + offset[1], height_mm + offset[2]),
        strands=fractal_plane(columns + offset[1], rows + offset[2], height_mm + offset[0]),
        ground=AIR,
    )
    if channel is not Channel.FDG:
        _paint_table(canvas, np.asarray(x_mm, np.float32), np.asarray(y_mm, np.float32))
    if LOWEST - 40.0 < height_mm < HIGHEST:
        outline = outline_at(patient, canvas)
        _paint_wall(canvas, outline)
        paint_organs(canvas, outline, patient)
        paint_bones(canvas, outline)
    return canvas.values


def _paint_wall(canvas: Canvas, outline: Outline) -> None:
    canvas.paint(SKIN, canvas.coverage(outline.skin))
    canvas.paint(FAT, canvas.coverage(outline.fat))
    muscle = canvas.coverage(outline.muscle)
    canvas.paint(MUSCLE, muscle)
    if canvas.w > NECK_BASE + 10.0:
        return
    # fat planes between the layers of muscle
    broken = np.clip(0.35 + 0.5 * canvas.texture, 0.0, 0.9) * muscle
    for depth in (outline.wall - 0.3, outline.wall + 9.0, outline.wall + 21.0):
        canvas.paint(FAT, canvas.coverage(0.9 - np.abs(depth)) * broken)
    canvas.paint(VISCERAL_FAT, canvas.coverage(outline.cavity))


def _paint_table(canvas: Canvas, x_mm: npt.NDArray[np.float32], y_mm: npt.NDArray[np.float32]) -> None:
    """A curved couch: two thin shells with foam between; it belongs to the scanner, not to the patient."""
    sag = (x_mm / 210.0) ** 2 * 46.0
    top = y_mm[:, None] - (_TABLE_TOP_MM - sag)[None, :]
    bottom = (_TABLE_TOP_MM + 40.0 - 0.6 * sag)[None, :] - y_mm[:, None]
    inside = np.minimum(np.minimum(top, bottom), (212.0 - np.abs(x_mm))[None, :])
    canvas.paint(TABLE_SHELL, canvas.coverage(inside))
    canvas.paint(TABLE_FOAM, canvas.coverage(inside - 3.0))
