"""Paint the soft organs of chest, abdomen and pelvis, and the vessels that run through them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dicom_qa_node.phantom.body_outline import Outline
from dicom_qa_node.phantom.patient import Patient
from dicom_qa_node.phantom.projector import FloatArray
from dicom_qa_node.phantom.skeleton import spine_depth
from dicom_qa_node.phantom.voxel_canvas import (
    AIRWAY,
    AIRWAY_WALL,
    BLADDER,
    BLOOD,
    GALLBLADDER,
    GUT_CONTENT,
    GUT_GAS,
    GUT_WALL,
    HEART_MUSCLE,
    KIDNEY_CORTEX,
    KIDNEY_MEDULLA,
    LIVER,
    LIVER_LESION,
    LIVER_VESSEL,
    LUNG,
    LUNG_LESION,
    LUNG_VESSEL,
    MUSCLE,
    NODE,
    OESOPHAGUS,
    PANCREAS,
    PROSTATE,
    RENAL_PELVIS,
    SPLEEN,
    STOOL,
    THYROID,
    VENOUS_BLOOD,
    VISCERAL_FAT,
    Canvas,
    Ellipsoid,
    Point,
    Tissue,
    Tube,
)

LOWEST_LUNG = -110.0
_HEART = Ellipsoid((26.0, -34.0, 24.0), (60.0, 43.0, 50.0), 32.0)
_HEART_ROOMS = (
    Ellipsoid((44.0, -24.0, 22.0), (31.0, 17.0, 34.0), 36.0),
    Ellipsoid((17.0, -50.0, 20.0), (38.0, 15.0, 32.0), 30.0),
    Ellipsoid((8.0, 6.0, 46.0), (34.0, 19.0, 24.0), 6.0),
    Ellipsoid((-26.0, -26.0, 30.0), (19.0, 27.0, 30.0), 12.0),
)
_LIVER = (
    Ellipsoid((-54.0, -4.0, -62.0), (80.0, 86.0, 66.0), 8.0),
    Ellipsoid((-88.0, 14.0, -112.0), (42.0, 58.0, 70.0)),
    Ellipsoid((14.0, -50.0, -44.0), (72.0, 36.0, 38.0), -10.0),
)
_SPLEEN = Ellipsoid((97.0, 40.0, -58.0), (30.0, 48.0, 52.0), -18.0)
_STOMACH = Ellipsoid((60.0, -20.0, -52.0), (44.0, 40.0, 44.0), 25.0)
_KIDNEYS = (
    Ellipsoid((-62.0, 50.0, -136.0), (26.0, 32.0, 56.0), 30.0),
    Ellipsoid((62.0, 50.0, -122.0), (26.0, 32.0, 56.0), -30.0),
)
_COLON = (
    (((-98, 12, -240), (-100, 8, -190), (-97, 2, -128)), 22.0),
    (((-97, -20, -130), (-55, -66, -150), (10, -74, -152), (60, -60, -135), (96, -20, -100)), 18.0),
    (((103, 6, -95), (104, 14, -170), (100, 18, -235)), 15.0),
    (((100, 18, -235), (62, -12, -285), (12, 28, -308), (0, 54, -300), (0, 56, -365)), 14.0),
)


@dataclass(frozen=True)
class _Chest:
    """Coverage of the lungs and of the space below the diaphragm, (rows, columns)."""

    lung: FloatArray
    below: FloatArray


def paint_organs(canvas: Canvas, outline: Outline, patient: Patient) -> None:
    """Everything inside the body wall, from neck to pelvic floor."""
    inside = canvas.coverage(outline.cavity)
    chest = _divide(canvas, outline, inside)
    if canvas.w < 20.0:
        _abdomen(canvas, patient, chest.below)
    if canvas.w > LOWEST_LUNG:
        canvas.paint(LUNG, chest.lung)
        _lung_vessels(canvas, patient, chest.lung)
    if -25.0 < canvas.w < 318.0:
        _mediastinum(canvas, patient)
    _great_vessels(canvas)
    if canvas.w < -60.0:
        _retroperitoneum(canvas)
    if canvas.w < -300.0:
        _pelvic_organs(canvas, inside)


def _divide(canvas: Canvas, outline: Outline, inside: FloatArray) -> _Chest:
    """Split the cavity at the diaphragm: two domes, the right one higher, deepest at the back."""
    w = canvas.w
    if w > 195.0 or w < LOWEST_LUNG:
        nothing = np.zeros_like(inside)
        return _Chest(nothing, nothing if w > 195.0 else inside)
    right = -0.0115 * (canvas.u + 70.0) ** 2 - 0.0080 * (canvas.v + 18.0) ** 2
    left = -14.0 - 0.0125 * (canvas.u - 66.0) ** 2 - 0.0090 * (canvas.v + 12.0) ** 2
    heart_bed = -20.0 - 0.0075 * (canvas.u - 8.0) ** 2 - 0.0070 * (canvas.v + 38.0) ** 2
    # depth in the plane: height over the slope of the dome
    above = (w - np.maximum(np.maximum(right, left), heart_bed)) / 1.6
    lung = canvas.coverage(np.minimum(above, outline.cavity - 1.5)) * (1.0 - _mediastinal(canvas))
    below = canvas.coverage(np.minimum(-above - 2.5, outline.cavity - 2.0))
    return _Chest(lung.astype(np.float32), below.astype(np.float32))


def _mediastinal(canvas: Canvas) -> FloatArray:
    """Coverage of the space between the lungs."""
    w, v = canvas.w, canvas.v
    base = np.interp(w, [-80, -20, 30, 70, 110, 150, 195], [20.0, 20.0, 21.0, 31.0, 31.0, 27.0, 17.0])
    taper = 1.0 - 0.5 * np.clip((-v - 25.0) / 45.0, 0.0, 1.0) * float(np.clip(np.abs(w - 30.0) / 40.0, 0.0, 1.0))
    back = np.clip((v - 25.0) / 30.0, 0.0, 1.0)
    centre = 3.0 + 4.0 * float(np.interp(w, [0, 60, 150], [1.0, 1.0, 0.0])) * (1.0 - back)
    half = base * taper * (1.0 - back) + 24.0 * back
    coverage = canvas.coverage((half - np.abs(canvas.u - centre)).astype(np.float32))
    part = canvas.ellipsoid_depth(_HEART, shrink_mm=-4.0)
    if part is not None:
        window, depth = part
        coverage[window] = np.maximum(coverage[window], canvas.coverage(depth))
    return coverage


def _lung_vessels(canvas: Canvas, patient: Patient, lung: FloatArray) -> None:
    canvas.tubes(patient.lung_vessels, LUNG_VESSEL, lung)
    for lesion in patient.lung_lesions:
        canvas.ellipsoid(lesion, LUNG_LESION, lung)


def _mediastinum(canvas: Canvas, patient: Patient) -> None:
    canvas.ellipsoid(_HEART, VISCERAL_FAT, shrink_mm=-3.0)
    canvas.ellipsoid(_HEART, HEART_MUSCLE)
    for room in _HEART_ROOMS:
        canvas.ellipsoid(room, BLOOD)
    for node in patient.nodes:
        canvas.ellipsoid(node, NODE)
    _gut(canvas, ((4, 34, 240), (5, 40, 190), (3, 46, 60), (16, 34, -25)), 8.0, OESOPHAGUS, GUT_GAS, 5.6)
    for path, radius in (
        (((0, -24, 314), (0, -12, 275), (0, 6, 245), (0, 14, 190), (2, 27, 108)), 9.5),
        (((2, 27, 108), (-26, 22, 88), (-50, 12, 68)), 7.5),
        (((2, 27, 108), (28, 28, 86), (52, 18, 66)), 7.0),
    ):
        airway = _tube(path, radius)
        canvas.tube(airway, AIRWAY_WALL)
        canvas.tube(airway, AIRWAY, wall_mm=1.8)
    for side in (-1.0, 1.0):
        canvas.ellipsoid(Ellipsoid((side * 19.0, 2.0, 214.0), (9.0, 13.0, 20.0)), THYROID)
        canvas.tube(_tube(((side * 30, 4, 260), (side * 28, 2, 200), (side * 16, -12, 150)), 4.5), BLOOD)
        canvas.tube(_tube(((side * 38, 6, 260), (side * 36, 0, 190), (side * 22, -24, 148)), 6.0), VENOUS_BLOOD)


def _great_vessels(canvas: Canvas) -> None:
    if canvas.w > 155.0:
        return
    heights = (120.0, 90.0, 60.0, 30.0, 0.0, -40.0, -80.0, -120.0, -160.0, -195.0)
    descending: list[Point] = []
    cava: list[Point] = []
    for height in heights:
        left = float(np.interp(height, [-100, 0, 100], [9.0, 13.0, 24.0]))
        descending.append((left, spine_depth(height) - 31.0, height))
        if height <= 30.0:
            cava.append((-24.0, float(np.interp(height, [-120, 30], [spine_depth(-120) - 30, 6])), height))
    canvas.tube(Tube(tuple(descending), (12.5,) * len(descending)), BLOOD)
    canvas.tube(Tube(tuple(cava), (12.0,) * len(cava)), VENOUS_BLOOD)
    arch: tuple[Point, ...] = (
        (24, spine_depth(120) - 31, 120), (20, 14, 134), (4, -18, 134), (-10, -40, 112), (-10, -40, 78), (8, -28, 55),
    )  # fmt: skip
    canvas.tube(Tube(arch, (13.0, 13.0, 14.0, 15.5, 16.0, 14.0)), BLOOD)
    canvas.tube(_tube(((-29, -24, 150), (-29, -22, 60)), 10.0), VENOUS_BLOOD)
    canvas.tube(_tube(((18, -46, 66), (24, -30, 88), (20, -8, 92), (-14, 2, 84), (-48, 6, 74)), 12.0), VENOUS_BLOOD)
    canvas.tube(_tube(((24, -22, 92), (38, 4, 88), (52, 12, 78)), 11.0), VENOUS_BLOOD)
    for side in (-1.0, 1.0):
        path = (
            (5, spine_depth(-195) - 31, -195),
            (side * 38, 26, -255),
            (side * 68, -34, -335),
            (side * 74, -40, -420),
        )
        canvas.tube(_tube(path, 6.5), BLOOD)
        vein = (
            (-20, spine_depth(-190) - 28, -190),
            (side * 36, 36, -262),
            (side * 60, -28, -340),
            (side * 64, -34, -420),
        )
        canvas.tube(_tube(vein, 7.5), VENOUS_BLOOD)


def _abdomen(canvas: Canvas, patient: Patient, below: FloatArray) -> None:
    canvas.paint(VISCERAL_FAT, below)
    canvas.tubes(patient.mesentery, VENOUS_BLOOD, below)
    for loop in patient.bowel:
        canvas.tube(loop, GUT_WALL, below)
        canvas.tube(loop, GUT_CONTENT, below, wall_mm=2.6)
        canvas.tube(Tube(loop.points[::7], loop.radii_mm[::7]), GUT_GAS, below, wall_mm=7.0)
    for path, radius in _COLON:
        _colon(canvas, path, radius, below)
    _stomach(canvas, below)
    canvas.ellipsoid(_SPLEEN, SPLEEN, below)
    pancreas: tuple[Point, ...] = ((66, 12, -84), (28, -14, -98), (-6, -20, -104), (-32, -8, -122))
    canvas.tube(Tube(pancreas, (8.0, 9.0, 9.0, 12.0)), PANCREAS, below)
    for lobe in _LIVER:
        canvas.ellipsoid(lobe, LIVER, below)
    liver = _union(canvas, _LIVER) * below
    canvas.tubes(patient.liver_vessels, LIVER_VESSEL, liver)
    for lesion in patient.liver_lesions:
        canvas.ellipsoid(lesion, LIVER_LESION, liver)
    canvas.tube(_tube(((16, -6, -108), (-10, -8, -96), (-30, -14, -80)), 7.0), VENOUS_BLOOD, below)
    canvas.ellipsoid(Ellipsoid((-44.0, -48.0, -116.0), (16.0, 19.0, 27.0), 20.0), GUT_WALL, below)
    canvas.ellipsoid(Ellipsoid((-44.0, -48.0, -116.0), (14.5, 17.5, 25.5), 20.0), GALLBLADDER, below)


def _union(canvas: Canvas, shapes: tuple[Ellipsoid, ...]) -> FloatArray:
    total = np.zeros_like(canvas.values)
    for shape in shapes:
        part = canvas.ellipsoid_depth(shape)
        if part is not None:
            window, depth = part
            total[window] = np.maximum(total[window], canvas.coverage(depth))
    return total


def _stomach(canvas: Canvas, below: FloatArray) -> None:
    canvas.ellipsoid(_STOMACH, GUT_WALL, below)
    _gut(
        canvas, ((48, -42, -80), (18, -52, -104), (-20, -40, -112), (-34, -20, -118)), 15.0, GUT_WALL, GUT_CONTENT, 3.5
    )
    part = canvas.ellipsoid_depth(_STOMACH, shrink_mm=4.0)
    if part is None:
        return
    window, depth = part
    content = canvas.coverage(depth) * below[window]
    canvas.paint(GUT_CONTENT, content, window)
    # the patient lies on the back: gas floats to the front, with a level surface
    gas = canvas.coverage(-40.0 - canvas.v[window])
    canvas.paint(GUT_GAS, content * gas, window)


def _colon(canvas: Canvas, path: tuple[tuple[float, float, float], ...], radius: float, below: FloatArray) -> None:
    haustra = radius * (1.0 + 0.10 * float(np.sin(canvas.w / 6.5)))
    tube = _tube(path, haustra)
    canvas.tube(tube, GUT_WALL, below)
    canvas.tube(tube, STOOL, below, wall_mm=2.4)
    lifted = tuple((u, v - 0.38 * radius, w) for u, v, w in path)
    canvas.tube(_tube(lifted, haustra * 0.62), GUT_GAS, below, wall_mm=2.4)


def _retroperitoneum(canvas: Canvas) -> None:
    for kidney in _KIDNEYS:
        canvas.ellipsoid(kidney, KIDNEY_CORTEX)
        canvas.ellipsoid(kidney, KIDNEY_MEDULLA, shrink_mm=7.5)
        (u, v, w), turn = kidney.centre, kidney.turn_deg
        inward = -1.0 if u > 0 else 1.0
        canvas.ellipsoid(Ellipsoid((u + inward * 10, v - 4, w), (17.0, 9.0, 30.0), turn), VISCERAL_FAT)
        canvas.ellipsoid(Ellipsoid((u + inward * 9, v - 4, w), (9.0, 4.5, 20.0), turn), RENAL_PELVIS)
        path = ((u + inward * 16, v - 4, w), (inward * -10 + 2, v - 16, w + 6))
        canvas.tube(_tube(path, 4.5), VENOUS_BLOOD)
    for side in (-1.0, 1.0):
        muscle: tuple[Point, ...] = (
            (side * 26, spine_depth(-100) - 2, -100), (side * 38, 58, -170), (side * 52, 40, -250),
            (side * 72, -14, -330),
        )  # fmt: skip
        canvas.tube(Tube(muscle, (9.0, 19.0, 23.0, 17.0)), MUSCLE)


def _pelvic_organs(canvas: Canvas, inside: FloatArray) -> None:
    bladder = Ellipsoid((0.0, -26.0, -348.0), (37.0, 30.0, 29.0))
    canvas.ellipsoid(bladder, MUSCLE, inside)
    canvas.ellipsoid(bladder, BLADDER, inside, shrink_mm=3.0)
    canvas.ellipsoid(Ellipsoid((0.0, 4.0, -386.0), (22.0, 18.0, 18.0)), PROSTATE)


def _gut(
    canvas: Canvas,
    path: tuple[tuple[float, float, float], ...],
    radius: float,
    wall: Tissue,
    content: Tissue,
    wall_mm: float,
) -> None:
    tube = _tube(path, radius)
    canvas.tube(tube, wall)
    canvas.tube(tube, content, wall_mm=wall_mm)


def _tube(path: tuple[tuple[float, float, float], ...], radius: float) -> Tube:
    return Tube(path, (radius,) * len(path))
