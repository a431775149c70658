"""The columns of an export of the quality log: one fixed order for the command, the API and the page.

A measurement has its unit in its column's name and one rounding rule, which the monthly report uses too.
``python -m dicom_qa_node.quality_log.export_columns docs/exports.md`` renews the table of that page.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

__all__ = [
    "COLUMNS",
    "MEASURED",
    "Access",
    "CellKind",
    "ExportColumn",
    "MeasuredQuantity",
    "columns_for",
    "rounded",
    "with_table",
]


class CellKind(StrEnum):
    """What a cell holds; every column may be empty."""

    TEXT = "text"
    NUMBER = "number"
    INTEGER = "whole number"
    DATE = "date"
    MOMENT = "UTC time"
    FLAG = "true or false"


class Access(StrEnum):
    """Who gets a column."""

    EVERYBODY = "everybody"
    PATIENT = "those who may see patients"


@dataclass(frozen=True, slots=True)
class ExportColumn:
    """One column; ``decimals`` is the number of digits behind the point of a NUMBER."""

    name: str
    kind: CellKind
    meaning: str
    decimals: int = 0
    access: Access = Access.EVERYBODY


@dataclass(frozen=True, slots=True)
class MeasuredQuantity:
    """A measurement in exports: ``unit`` is its UCUM code, ``suffix`` the unit in the column's name."""

    name: str
    unit: str
    suffix: str
    decimals: int
    meaning: str

    @property
    def column(self) -> ExportColumn:
        """Its column."""
        name = f"{self.name}_{self.suffix}" if self.suffix else self.name
        return ExportColumn(name, CellKind.NUMBER, self.meaning, self.decimals)


def _quantities(rows: Iterable[tuple[str, str, str, int, str]]) -> tuple[MeasuredQuantity, ...]:
    return tuple(MeasuredQuantity(*row) for row in rows)


_HU, _SUV = "[hnsf'U]", "g/ml{SUVbw}"

_QUALITY = _quantities(
    (
        ("global_noise_level", _HU, "hu", 2, "Global noise level"),
        ("snr", "1", "", 1, "Signal to noise of soft tissue"),
        ("cnr_soft_tissue_fat", "1", "", 2, "Contrast to noise, soft tissue to fat"),
        ("noise_in_air", _HU, "hu", 2, "Noise in air outside the patient"),
        ("skin_edge_f50", "/mm", "per_mm", 3, "Frequency at half modulation of the skin edge"),
        ("nps_peak_frequency", "/mm", "per_mm", 3, "Peak frequency of the noise power spectrum"),
        ("nps_mean_frequency", "/mm", "per_mm", 3, "Mean frequency of the noise power spectrum"),
        ("streak_index", "1", "", 3, "Streak index"),
        ("photon_starvation_index", "1", "", 3, "Photon starvation index"),
        ("fov_truncation", "%", "percent", 1, "Body outline cut by the field of view"),
        ("metal_fraction", "%", "percent", 3, "Metal in or on the body"),
        ("motion_edge_index", "1", "", 3, "Motion edge index"),
        ("contour_jump", "mm", "mm", 1, "Step of the body outline between slices"),
        ("hu_air", _HU, "hu", 1, "CT number of air"),
        ("hu_fat", _HU, "hu", 1, "CT number of fat"),
        ("hu_table", _HU, "hu", 1, "CT number of the table"),
        ("tube_voltage", "kV", "kv", 0, "Tube voltage"),
        ("tube_charge", "mA.s", "mas", 1, "Tube current time product"),
        ("pitch", "1", "", 3, "Spiral pitch factor"),
        ("kernel_sharpness", "1", "", 2, "Sharp reconstruction kernel"),
        ("liver_cov", "%", "percent", 1, "Coefficient of variation in the liver"),
        ("liver_snr", "1", "", 1, "Signal to noise in the liver"),
        ("global_noise_index", "%", "percent", 2, "Global noise index"),
        ("noise_correlation_width", "mm", "mm", 1, "Correlation width of the noise (FWHM)"),
        ("body_noise", "%", "percent", 1, "Noise of the body"),
        ("body_noise_width", "mm", "mm", 1, "Width of the noise of the body (FWHM)"),
        ("recovery_10mm", "%", "percent", 1, "Recovery at the centre of a sphere of 10 mm"),
        ("liver_suv_mean", _SUV, "suvbw", 2, "Mean SUV of the liver"),
        ("body_suv_mean", _SUV, "suvbw", 2, "Mean SUV of the body"),
        ("activity_in_field", "%", "percent", 1, "Share of the administered activity in the field"),
        ("suv_max", _SUV, "suvbw", 2, "Largest SUV"),
        ("misregistration_dome", "mm", "mm", 1, "Shift of the liver dome between PET and CT"),
        ("misregistration_contour", "mm", "mm", 1, "Shift of the body outline between PET and CT"),
        ("ct_coverage", "%", "percent", 1, "Part of the PET covered by the CT"),
        ("uptake_time", "min", "min", 1, "Time from injection to scan"),
        ("administered_activity", "MBq", "mbq", 1, "Administered activity"),
        ("activity_per_weight", "MBq/kg", "mbq_per_kg", 2, "Administered activity per body weight"),
        ("frame_duration", "s", "s", 1, "Duration of a frame"),
        ("prompt_counts", "{counts}", "", 0, "Prompt counts of a frame"),
        ("randoms_fraction", "%", "percent", 1, "Randoms of the prompt counts"),
        ("scatter_fraction", "%", "percent", 1, "Scatter fraction factor"),
        ("slices_used", "{slices}", "", 0, "Slices in the volume"),
        ("completeness", "%", "percent", 1, "Slices received of those announced"),
        ("missing_slices", "{slices}", "", 0, "Slices missing inside the volume"),
        ("largest_gap", "mm", "mm", 2, "Largest distance of neighbouring slices"),
        ("slice_thickness", "mm", "mm", 3, "Slice thickness"),
        ("slice_spacing", "mm", "mm", 3, "Distance of slices"),
        ("uncovered_gap", "mm", "mm", 3, "Unimaged gap between slices"),
        ("pixel_size", "mm", "mm", 4, "Pixel size"),
        ("scan_length", "mm", "mm", 1, "Length of the volume"),
        ("tilt", "deg", "deg", 1, "Angle of the slices to the axial plane"),
    )
)
_DOSE_AND_SIZE = _quantities(
    (
        ("ctdi_vol", "mGy", "mgy", 2, "CTDIvol"),
        ("dlp", "mGy.cm", "mgy_cm", 1, "Dose length product of the images"),
        ("ssde", "mGy", "mgy", 2, "Size-specific dose estimate"),
        ("water_equivalent_diameter", "mm", "mm", 1, "Water-equivalent diameter of the patient"),
    )
)
MEASURED: dict[str, MeasuredQuantity] = {item.name: item for item in (*_QUALITY, *_DOSE_AND_SIZE)}
"""Every measurement of the node by its name, in the order of the columns."""

DIMENSIONS: dict[str, tuple[str, ...]] = {
    "ct": ("noise", "resolution", "contrast", "structure", "artefact"),
    "pet": ("noise", "resolution", "plausibility"),
}
"""The dimensions that a part of a verdict may be composed of, by part."""


def _text(name: str, meaning: str) -> ExportColumn:
    return ExportColumn(name, CellKind.TEXT, meaning)


def _patient(name: str, meaning: str, kind: CellKind = CellKind.TEXT) -> ExportColumn:
    return ExportColumn(name, kind, meaning, access=Access.PATIENT)


def _score(name: str, meaning: str) -> ExportColumn:
    return ExportColumn(name, CellKind.NUMBER, f"{meaning}, 0 to 4, higher is better", 2)


COLUMNS: tuple[ExportColumn, ...] = (
    ExportColumn("study_date", CellKind.DATE, "Study Date (0008,0020)"),
    _text("study_time", "Study Time (0008,0030), local time of the scanner"),
    ExportColumn(
        "acquired_on", CellKind.DATE, "day of the acquisition; where the header has none, that of the scoring"
    ),
    _patient("accession_number", "Accession Number (0008,0050)"),
    _patient("patient_id", "Patient ID (0010,0020)"),
    _patient("patient_name", "Patient's Name (0010,0010)"),
    _patient("patient_birth_date", "Patient's Birth Date (0010,0030)", CellKind.DATE),
    _text("protocol", "Protocol Name (0018,1030)"),
    _text("series_description", "Series Description (0008,103E)"),
    _text("study_description", "Study Description (0008,1030)"),
    _text("body_part", "Body Part Examined (0018,0015)"),
    _text("scanner", "the scanner as the log names it"),
    _text("scanner_model", "Manufacturer's Model Name (0008,1090)"),
    _text("site", "Institution Name (0008,0080)"),
    _text("modality", "Modality (0008,0060)"),
    _text("kind", "what was scored: ct, pt or petct"),
    _text("qc_outcome", "outcome of a QC phantom, which has no score; empty for a patient"),
    _score("score", "score of the series"),
    _score("score_low", "lower end of its interval"),
    _score("score_high", "upper end of its interval"),
    _score("ct_score", "score of the CT"),
    _score("pet_score", "score of the PET"),
    _score("display_score", "score of the displayed picture"),
    *(
        _score(f"{part}_{name}_score", f"{name} of the {part.upper()}")
        for part, names in DIMENSIONS.items()
        for name in names
    ),
    _text("decided_by", "part that gave the score: ct, pet or display"),
    _text("limiting_dimension", "dimension that decides the score of that part"),
    _text("grade", "best grade that the interval reaches"),
    _text("grade_low", "worst grade that the interval reaches, where it is another"),
    _text("why", "what pulled the score down, or why there is none"),
    _text("findings", "keys of the findings, separated by spaces"),
    _text("severity", "the gravest of the findings: info, warning or error"),
    ExportColumn("deviation_sd", CellKind.NUMBER, "robust standard deviations from the scanner's earlier scores", 2),
    *(item.column for item in _QUALITY),
    _text("other_measurements", "measurements and dimensions without a column: name=value unit, separated by ;"),
    *(item.column for item in _DOSE_AND_SIZE),
    ExportColumn("rdsr_ctdi_vol_mgy", CellKind.NUMBER, "CTDIvol of the linked event of a dose report", 2),
    ExportColumn("rdsr_dlp_mgy_cm", CellKind.NUMBER, "DLP of the linked event of a dose report", 1),
    ExportColumn("ctdi_phantom_cm", CellKind.INTEGER, "diameter of the CTDI phantom, of the report or the images"),
    _text("rdsr_link", "how the event was found, or why there is none"),
    _text("review", "none, agreed, disagreed or divided"),
    _score("review_score", "latest score that a reviewer gave"),
    _patient("reviewed_by", "reviewers, separated by ;"),
    _patient("review_comment", "reasons and comments of the reviews, separated by ;"),
    ExportColumn("reviewed_at_utc", CellKind.MOMENT, "time of the latest review"),
    _text("model", "name and version of the model"),
    _text("model_sha256", "checksum of its weights"),
    _text("rated_with", "algorithm of each rated part, separated by ;"),
    _text("state", "state of the series"),
    _text("delivery", "what became of the report: none, waiting, delivered or parked"),
    ExportColumn("version", CellKind.INTEGER, "scored version of the series"),
    ExportColumn("latest", CellKind.FLAG, "whether no later version has taken its place"),
    ExportColumn("scored_at_utc", CellKind.MOMENT, "time of the scoring"),
    _text("series_instance_uid", "Series Instance UID (0020,000E)"),
    _text("study_instance_uid", "Study Instance UID (0020,000D)"),
)
"""All columns in their fixed order; a new one is added, none moves."""


def columns_for(*, patients: bool) -> tuple[ExportColumn, ...]:
    """Return the columns for an account; without ``patients`` those of `Access.PATIENT` are left out."""
    return tuple(column for column in COLUMNS if patients or column.access is Access.EVERYBODY)


def rounded(name: str, value: float | None) -> float | None:
    """Return a measured value with the decimals of its quantity; None for none, and for what is not finite."""
    if value is None or not math.isfinite(value):
        return None
    known = MEASURED.get(name)
    return value if known is None else round(value, known.decimals) + 0.0


_TABLE = re.compile(r"(<!-- table: columns -->\n).*?(<!-- end -->)", re.DOTALL)


def with_table(page: str) -> str:
    """Return a page with the text between its table marks replaced by the columns as they are."""
    lines = ["| | column | holds | meaning |", "|---|---|---|---|"]
    for number, column in enumerate(COLUMNS, start=1):
        decimals = f", {column.decimals} decimal{'' if column.decimals == 1 else 's'}" if column.decimals else ""
        who = f" (only for {column.access.value})" if column.access is Access.PATIENT else ""
        lines.append(f"| {number} | `{column.name}` | {column.kind.value}{decimals} | {column.meaning}{who} |")
    return _TABLE.sub(lambda found: found[1] + "\n".join(lines) + "\n" + found[2], page)


if __name__ == "__main__":
    _page = Path(sys.argv[1])
    _page.write_text(with_table(_page.read_text(encoding="utf-8")), encoding="utf-8")
