"""Draws kept slices for a browser: windows of CT, PET in grey or in colour, PET over CT, and heat maps.

What is drawn are the 16-bit pictures that `spool.rendered_images` describes; nothing is judged here.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from dicom_qa_node.spool.rendered_images import ImageManifest, RenderedSlice, StoredLayer, heat_name
from dicom_qa_node.web.body_crop import Box, body_of, crop_of

__all__ = ["LABELS", "Look", "draw", "heat_overlay", "looks_of", "thumbnail"]

Grey = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float64]
_FUSED_SHARE = 0.55


class Look(StrEnum):
    """How a slice is shown; JUDGED is the very picture that the network saw."""

    JUDGED = "judged"
    SOFT = "soft"
    LUNG = "lung"
    BONE = "bone"
    BRAIN = "brain"
    PET = "pet"
    HOT = "hot"
    FUSED = "fused"


LABELS = {
    Look.JUDGED: "As judged",
    Look.SOFT: "Soft tissue",
    Look.LUNG: "Lung",
    Look.BONE: "Bone",
    Look.BRAIN: "Brain",
    Look.PET: "PET grey",
    Look.HOT: "PET hot",
    Look.FUSED: "Fused",
}


@dataclass(frozen=True, slots=True)
class Window:
    """Centre and width in HU."""

    centre: float
    width: float


# Centre and width that viewers offer for these tissues.
_WINDOWS = {
    Look.SOFT: Window(40, 400),
    Look.LUNG: Window(-600, 1500),
    Look.BONE: Window(450, 1800),
    Look.BRAIN: Window(40, 80),
}


def looks_of(item: RenderedSlice, folder: Path) -> tuple[Look, ...]:
    """Return how a slice can be shown; once retention took its layers, only as it was judged."""
    layers = [layer for layer in item.layers if (folder / layer.file).is_file()]
    ct = any(layer.unit == "HU" for layer in layers)
    pet = any(layer.unit != "HU" for layer in layers)
    found = [Look.JUDGED] if (folder / item.display).is_file() else []
    found += [Look.SOFT, Look.LUNG, Look.BONE, Look.BRAIN] if ct else []
    found += [Look.PET, Look.HOT] if pet else []
    return (*found, Look.FUSED) if ct and pet else tuple(found)


def draw(folder: Path, item: RenderedSlice, look: Look, box: Box | None = None) -> bytes:
    """Return a slice as PNG, cropped to ``box`` where one is given.

    Raises
    ------
    FileNotFoundError
        The layers it needs are not there (any more), or the slice has none of that kind.
    """
    if look is Look.JUDGED:
        if box is None:
            return (folder / item.display).read_bytes()
        with Image.open(folder / item.display) as image:
            return _png(_cropped(image.convert("RGB"), box))
    return _png(_cropped(Image.fromarray(_drawn(folder, item, look)), box))


def _drawn(folder: Path, item: RenderedSlice, look: Look) -> Grey:
    if look in _WINDOWS:
        return _ct(folder, item, _WINDOWS[look])
    if look is Look.FUSED:
        return _fused(folder, item)
    layer = _layer(item, ct=False)
    share = _share(_values(folder, layer), layer.low, layer.high)
    return _hot(share) if look is Look.HOT else _grey(1 - share)


def _cropped(image: Image.Image, box: Box | None) -> Image.Image:
    return image if box is None else image.crop((box.left, box.top, box.right, box.bottom))


def heat_overlay(folder: Path, item: RenderedSlice, box: Box | None = None) -> bytes:
    """Return a heat map as PNG to lie over its slice: clear where nothing was lost, yellow to red where much was.

    It ends at the body: the patches that made it reach over its edge, but air lowers no score.

    Raises
    ------
    FileNotFoundError
        There is none.
    """
    with Image.open(folder / heat_name(item.number)) as image:
        heat = np.asarray(image.convert("L"))
    body = body_of(folder, item)
    if body is not None and body.shape == heat.shape:
        heat = np.where(body, heat, 0)
    colour = np.zeros((*heat.shape, 4), np.uint8)
    colour[..., 0] = 255
    colour[..., 1] = 220 - (heat.astype(np.uint16) * 200 // 255).astype(np.uint8)
    colour[..., 3] = (heat.astype(np.uint16) * 190 // 255).astype(np.uint8)
    return _png(_cropped(Image.fromarray(colour), box))


def thumbnail(folder: Path, manifest: ImageManifest, number: int, size: int = 256) -> bytes:
    """Return the body in a slice as the network saw it, at most ``size`` pixels wide and high, as PNG.

    Raises
    ------
    FileNotFoundError
        It is not there.
    """
    shown = next((item for item in manifest.slices if item.number == number), None)
    if shown is None:
        raise FileNotFoundError(f"slice {number}")
    with Image.open(folder / shown.display) as image:
        small = _cropped(image.convert("RGB"), crop_of(folder, shown))
    small.thumbnail((size, size), Image.Resampling.LANCZOS)
    return _png(small)


def _layer(item: RenderedSlice, *, ct: bool) -> StoredLayer:
    for layer in item.layers:
        if (layer.unit == "HU") is ct:
            return layer
    raise FileNotFoundError("no such layer")


def _values(folder: Path, layer: StoredLayer) -> Values:
    with Image.open(folder / layer.file) as image:
        pixels = np.asarray(image)
    return pixels.astype(np.float64) * layer.scale + layer.offset


def _share(values: Values, low: float, high: float) -> Values:
    """Return where values lie between two others, 0 to 1."""
    span = (high - low) or 1.0
    shares: Values = np.clip((values - low) / span, 0.0, 1.0)
    return shares


def _ct(folder: Path, item: RenderedSlice, window: Window) -> Grey:
    half = window.width / 2
    return _grey(_share(_values(folder, _layer(item, ct=True)), window.centre - half, window.centre + half))


def _fused(folder: Path, item: RenderedSlice) -> Grey:
    """Lay the PET in colour over the CT; what takes up nothing leaves the CT as it is."""
    under = _ct(folder, item, _WINDOWS[Look.SOFT]).astype(np.float64)[..., None]
    layer = _layer(item, ct=False)
    share = _share(_values(folder, layer), layer.low, layer.high)
    cover = (_FUSED_SHARE * np.minimum(1.0, share * 4))[..., None]
    mixed: Grey = np.rint(under * (1 - cover) + _hot(share) * cover).astype(np.uint8)
    return mixed


def _grey(share: Values) -> Grey:
    drawn: Grey = np.rint(share * 255).astype(np.uint8)
    return drawn


def _hot(share: Values) -> Grey:
    """Return black through red and yellow to white, shape (rows, columns, 3)."""
    steps = np.clip(np.stack([share * 3, share * 3 - 1, share * 3 - 2], axis=-1), 0.0, 1.0)
    return _grey(steps)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
