"""Paint the bones: spine, ribs, sternum, shoulder girdle, pelvis, skull."""

from __future__ import annotations

import numpy as np

from dicom_qa_node.phantom.body_outline import HEAD_BASE, WALL_MM, Outline, cavity_half_depth
from dicom_qa_node.phantom.projector import FloatArray
from dicom_qa_node.phantom.voxel_canvas import (
    AIR,
    BRAIN,
    CARTILAGE,
    CORTEX,
    DISC,
    MARROW,
    MUSCLE,
    RIB_CORTEX,
    SPINAL_CANAL,
    Canvas,
    Ellipsoid,
    Point,
    Tissue,
    Tube,
)

_VERTEBRA_MM = 29.0
_RIB_SPACING_MM = 25.0
_RIB_DROP_MM = 92.0
_SIDES = (-1.0, 1.0)


def spine_depth(w: float) -> float:
    """How far behind the body's centre the vertebral bodies lie, in mm."""
    inset = float(np.interp(w, [-300, -190, -80, 40, 180], [10.0, 20.0, 20.0, 14.0, 10.0]))
    return cavity_half_depth(w) - inset if w < 205.0 else 24.0 + 0.05 * (w - 205.0)


def paint_bones(canvas: Canvas, outline: Outline) -> None:
    """All bones that this slice meets."""
    w = canvas.w
    if -130.0 < w < 205.0:
        _ribs(canvas, outline)
    if w < 330.0:
        _spine(canvas)
    if 8.0 < w < 158.0:
        _sternum(canvas, outline)
    if w > 75.0:
        _shoulder(canvas)
    if w < -190.0:
        _pelvis(canvas)
    if w > HEAD_BASE + 20.0:
        _head(canvas, outline)


def _hollow(canvas: Canvas, shape: Ellipsoid, rim_mm: float, cortex: Tissue = CORTEX) -> None:
    canvas.ellipsoid(shape, cortex)
    canvas.ellipsoid(shape, MARROW, shrink_mm=rim_mm)


def _hollow_tube(canvas: Canvas, shape: Tube, rim_mm: float, cortex: Tissue = CORTEX) -> None:
    canvas.tube(shape, cortex)
    canvas.tube(shape, MARROW, wall_mm=rim_mm)


def _bar(canvas: Canvas, ends: tuple[tuple[float, float], ...], radius_mm: float) -> Tube:
    points: tuple[Point, ...] = tuple((u, v, canvas.w) for u, v in ends)
    return Tube(points, (radius_mm,) * len(points))


def _ribs(canvas: Canvas, outline: Outline) -> None:
    # angle from the back, 0 to pi; a rib falls from the spine to the front
    back = np.abs(np.abs(canvas.angle - np.pi / 2 + np.pi) % (2 * np.pi) - np.pi)
    fall = _RIB_DROP_MM * (1.0 - np.cos(back)) / 2.0
    level = (canvas.w + fall) / _RIB_SPACING_MM
    number = np.rint(level)
    away_mm = (level - number) * _RIB_SPACING_MM
    middle = outline.wall - WALL_MM * 0.52
    rho = np.sqrt((middle / 4.0) ** 2 + (away_mm / 6.6) ** 2)
    depth = (1.0 - rho) * 4.0
    # eleven pairs; the lowest two do not reach the front
    exists = (number <= 7) & (number >= -4) & ((number > -2) | (back < 1.75))
    exists &= (back > 0.16) & (back < 2.95)
    whole = canvas.coverage(depth.astype(np.float32)) * exists
    bone = back < 2.35
    canvas.paint(RIB_CORTEX, (whole * bone).astype(np.float32))
    inner = canvas.coverage((depth - 1.5).astype(np.float32)) * exists * bone
    canvas.paint(MARROW, inner.astype(np.float32))
    canvas.paint(CARTILAGE, (whole * ~bone).astype(np.float32))


def _spine(canvas: Canvas) -> None:
    w = canvas.w
    v = spine_depth(w)
    phase = abs(w - _VERTEBRA_MM * np.rint(w / _VERTEBRA_MM))
    size = float(np.interp(w, [-260, -100, 150, 260, 320], [25.0, 23.0, 17.5, 12.0, 11.0]))
    body = Ellipsoid((0.0, v, w), (size, size * 0.78, 1e3))
    canvas.tube(_bar(canvas, ((-30.0, v + 30), (30.0, v + 30)), 13.0), MUSCLE)
    if phase < 11.5:
        _hollow(canvas, body, 1.4)
    else:
        canvas.ellipsoid(body, RIB_CORTEX if phase < 12.4 else DISC)
    canal = v + size * 0.78 + 8.5
    arch = size * 0.72
    canvas.ellipsoid(Ellipsoid((0.0, canal, w), (arch, arch * 0.85, 1e3)), RIB_CORTEX if phase < 10 else MUSCLE)
    canvas.ellipsoid(Ellipsoid((0.0, canal, w), (arch - 4.0, arch * 0.85 - 3.2, 1e3)), SPINAL_CANAL)
    for side in _SIDES:
        if phase < 6.0:
            wing = ((side * arch * 0.7, canal - 2), (side * (size + 14), canal + 7))
            _hollow_tube(canvas, _bar(canvas, wing, 4.0), 1.6, RIB_CORTEX)
        elif phase < 10.5:
            facet = Ellipsoid((side * arch * 0.95, canal + 3, w), (5.0, 7.5, 1e3), side * 20)
            _hollow(canvas, facet, 1.8)
    if 2.0 < phase < 11.0:
        tip = canal + arch * 0.85 + float(np.interp(w, [-200, 0, 150], [22.0, 18.0, 20.0]))
        _hollow_tube(canvas, _bar(canvas, ((0.0, canal + arch * 0.8), (0.0, tip)), 3.2), 1.4, RIB_CORTEX)


def _sternum(canvas: Canvas, outline: Outline) -> None:
    v = -(outline.half_depth + WALL_MM * 0.45)
    width = float(np.interp(canvas.w, [8, 30, 120, 150, 158], [4.0, 15.0, 19.0, 30.0, 22.0]))
    _hollow(canvas, Ellipsoid((0.0, v, canvas.w), (width, 6.0, 1e3)), 1.3, RIB_CORTEX)


def _shoulder(canvas: Canvas) -> None:
    w = canvas.w
    for side in _SIDES:
        if 80.0 < w < 190.0:
            out = float(np.interp(w, [80, 110, 185], [10.0, 26.0, 44.0]))
            blade = ((side * (92.0 - 0.1 * w), 84.0 - 0.12 * w), (side * (100 + out), 52.0 - 0.18 * w))
            _hollow_tube(canvas, _bar(canvas, blade, 3.2), 1.4, RIB_CORTEX)
        if 120.0 < w < 192.0:
            ridge = ((side * 92.0, 70.0), (side * 138.0, 40.0))
            _hollow_tube(canvas, _bar(canvas, ridge, 3.6), 1.6, RIB_CORTEX)
        _hollow(canvas, Ellipsoid((side * 152.0, 6.0, 182.0), (23.0, 23.0, 24.0)), 1.8)
        collar: tuple[Point, ...] = ((side * 22, -54, 158), (side * 75, -40, 172), (side * 135, 0, 192))
        _hollow_tube(canvas, Tube(collar, (8.0, 6.5, 6.5)), 1.8, RIB_CORTEX)


def _pelvis(canvas: Canvas) -> None:
    w = canvas.w
    _hollow(canvas, Ellipsoid((0.0, 74.0, -285.0), (44.0, 19.0, 48.0)), 1.6, RIB_CORTEX)
    for side in _SIDES:
        if -322.0 < w < -196.0:
            flare = float(np.interp(w, [-322, -280, -210, -196], [60.0, 88.0, 112.0, 100.0]))
            front = float(np.interp(w, [-322, -230, -196], [0.0, -28.0, 5.0]))
            wing = ((side * 46.0, 70.0), (side * flare, 44.0), (side * (flare + 12.0), front))
            _hollow_tube(canvas, _bar(canvas, wing, 6.5), 1.8, RIB_CORTEX)
        _hollow(canvas, Ellipsoid((side * 84.0, 6.0, -338.0), (34.0, 34.0, 32.0)), 2.2)
        canvas.ellipsoid(Ellipsoid((side * 90.0, 4.0, -346.0), (27.0, 27.0, 27.0)), CARTILAGE)
        _hollow(canvas, Ellipsoid((side * 90.0, 4.0, -346.0), (24.5, 24.5, 24.5)), 1.6)
        for path, radii in (
            (((side * 92, 6, -350), (side * 122, 8, -378), (side * 118, 4, -430)), (16.0, 19.0, 15.0)),
            (((side * 66, 30, -350), (side * 48, 42, -400)), (13.0, 14.0)),
            (((side * 8, -46, -380), (side * 62, -24, -348)), (10.0, 10.0)),
        ):
            points: tuple[Point, ...] = tuple((float(u), float(v), float(h)) for u, v, h in path)
            _hollow_tube(canvas, Tube(points, radii), 2.4)


def _head(canvas: Canvas, outline: Outline) -> None:
    w = canvas.w
    if w > 318.0:
        skull: FloatArray = outline.muscle - 3.0
        canvas.paint(CORTEX, canvas.coverage(skull))
        canvas.paint(BRAIN, canvas.coverage(skull - 6.5))
        for side in _SIDES:
            canvas.ellipsoid(Ellipsoid((side * 10.0, -5.0, 370.0), (6.0, 24.0, 18.0), side * 12), SPINAL_CANAL)
        return
    if w < 292.0:
        jaw = ((-48.0, 5.0), (-40.0, -40.0), (0.0, -66.0), (40.0, -40.0), (48.0, 5.0))
        _hollow_tube(canvas, _bar(canvas, jaw, 5.5), 2.0)
    else:
        for side in _SIDES:
            canvas.ellipsoid(Ellipsoid((side * 26.0, -52.0, 306.0), (17.0, 18.0, 14.0)), CORTEX)
            canvas.ellipsoid(Ellipsoid((side * 26.0, -52.0, 306.0), (15.5, 16.5, 12.5)), AIR)
