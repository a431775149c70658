"""What the header says about a series that the networks were not trained on: age, body region, tracer."""

from __future__ import annotations

from pydicom import Dataset

from dicom_qa_node.dicom_io import headers as at
from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.score.body_region import ADULT_YEARS, BodyRegion, header_region, patient_years
from dicom_qa_node.score.tracers import is_fdg, tracer_of

__all__ = ["outside_training_domain"]


def outside_training_domain(header: Dataset, kind: SeriesKind, region: BodyRegion | None = None) -> str:
    """Return why a series of this kind is unlike the training data, "" where nothing suggests it.

    Parameters
    ----------
    region
        What the volume shows (`body_region.region_of`); None: by the header alone.
    """
    years = patient_years(header)
    if years is not None and years < ADULT_YEARS:
        return f"the patient is a child of {years:.0f} years and the model was trained on adults"
    if kind is SeriesKind.CT:
        shown = header_region(header) if region is None else region
        if shown is BodyRegion.LIMB:
            return f"the body part is {_part(header, shown)} and the model has seen no CT of limbs"
        if shown is BodyRegion.HEAD:
            return f"the body part is {_part(header, shown)} and the model has seen no CT of heads in this window"
        return ""
    tracer = tracer_of(header)
    if tracer is None and not is_fdg(header):
        return "the radionuclide is not fluorine-18 and the model has only seen FDG"
    if tracer is not None and not is_fdg(header):
        return f"the tracer is {tracer.value}, not FDG, and the model has only seen FDG"
    return ""


def _part(header: Dataset, shown: BodyRegion) -> str:
    named = at.word(header, "BodyPartExamined").lower()
    return named if named and header_region(header) is shown else f"the {shown.value}"
