"""How well a generated series is acquired: dose, views, kernel for CT; counts for PET."""

from __future__ import annotations

from dataclasses import dataclass

from dicom_qa_node.phantom.projector import Filter

FULL_VIEWS = 720


def full_views(rows: int) -> int:
    """Views of a complete scan for a matrix of this size: 720 from 512 up, proportionally fewer below."""
    return max(round(FULL_VIEWS * min(rows, 512) / 512), 48)


@dataclass(frozen=True)
class CtQuality:
    """A CT acquisition.

    Attributes
    ----------
    dose_fraction
        Photons per reading against the routine.
    views
        Views kept of the 720 over 180 degrees, each with the photons it has in the full set. A matrix below
        512 is scanned with the same share of proportionally fewer views, so that the streaks keep their
        look.
    kernel, cutoff
        Reconstruction filter, and where it ends as a fraction of Nyquist.
    noise_hu
        Noise SD in the liver at full dose and all views: what the exposure control aims at.
    """

    dose_fraction: float = 1.0
    views: int = FULL_VIEWS
    kernel: Filter = Filter.HANN
    cutoff: float = 1.0
    noise_hu: float = 12.0

    def __post_init__(self) -> None:
        if not 0.0 < self.dose_fraction <= 10.0:
            raise ValueError(f"dose fraction out of (0, 10]: {self.dose_fraction}")
        if not 4 <= self.views <= FULL_VIEWS:
            raise ValueError(f"views out of 4 to {FULL_VIEWS}: {self.views}")
        if not self.noise_hu > 0:
            raise ValueError(f"noise target must be positive: {self.noise_hu}")

    def views_at(self, rows: int) -> int:
        """Views measured for a matrix of this size."""
        return max(round(self.views * full_views(rows) / FULL_VIEWS), 4)

    @property
    def relative_dose(self) -> float:
        """Dose of the whole rotation against the routine."""
        return self.dose_fraction * self.views / FULL_VIEWS


ROUTINE = CtQuality()
NAMED = {
    "routine": ROUTINE,
    "tenth_dose": CtQuality(dose_fraction=0.1),
    "sparse_views": CtQuality(views=60),
}


def quality_named(quality: str | CtQuality) -> CtQuality:
    """The quality itself, or the one of that name."""
    if isinstance(quality, CtQuality):
        return quality
    try:
        return NAMED[quality]
    except KeyError:
        raise ValueError(f"unknown quality {quality!r}; choose from {', '.join(NAMED)}") from None
