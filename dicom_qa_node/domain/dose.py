"""Dose of CT series: what a dose report holds, what the images themselves state, and the dose that results."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "PHANTOMS_CM",
    "AcquisitionType",
    "DoseHeader",
    "DoseReport",
    "DoseSource",
    "IrradiationEvent",
    "LinkRule",
    "SeriesDose",
    "StoredDoseReport",
]


PHANTOMS_CM = {"113690": 16, "113691": 32}
"""Diameters of the CTDI phantoms by their DCM codes: IEC head and body dosimetry phantom (PS3.16 CID 4052)."""


class AcquisitionType(StrEnum):
    """CT Acquisition Type (PS3.16 CID 10013); UNKNOWN where the report gives no code, or one outside the group."""

    SPIRAL = "spiral"
    SEQUENCED = "sequenced"
    CONSTANT_ANGLE = "constant angle"
    STATIONARY = "stationary"
    FREE = "free"
    CONE_BEAM = "cone beam"
    UNKNOWN = ""

    @property
    def localizer(self) -> bool:
        """Whether acquisitions of this type are localizers."""
        return self is AcquisitionType.CONSTANT_ANGLE


@dataclass(frozen=True, slots=True)
class IrradiationEvent:
    """One CT acquisition of a dose report (PS3.16 TID 10013).

    Attributes
    ----------
    key
        Identifies the event within its study: the Irradiation Event UID, and where the report gives none, a digest of
        what the report says of it, which is the same in a later cumulative report.
    uid
        Irradiation Event UID, "" where the report gives none that is valid.
    ctdi_vol_mgy, dlp_mgy_cm, ssde_mgy
        None where the report gives no single plausible value; ``remarks`` says why.
    phantom_cm
        Diameter of the CTDI phantom, 16 or 32 cm; None where it is not stated.
    kv
        One value for each X-ray source.
    """

    key: str
    uid: str = ""
    acquisition_type: AcquisitionType = AcquisitionType.UNKNOWN
    protocol: str = ""
    ctdi_vol_mgy: float | None = None
    phantom_cm: int | None = None
    dlp_mgy_cm: float | None = None
    ssde_mgy: float | None = None
    kv: tuple[float, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def localizer(self) -> bool:
        """Whether the acquisition is a localizer, which carries the dose of no series."""
        return self.acquisition_type.localizer


@dataclass(frozen=True, slots=True)
class DoseReport:
    """One CT dose report, as far as the node uses it.

    ``content_at`` is Content Date and Time as 14 digits: of two reports on one event the later counts.
    ``dlp_total_mgy_cm`` is the total that the report itself states; it is shown and never added up.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    patient_id: str
    content_at: str
    events: tuple[IrradiationEvent, ...]
    dlp_total_mgy_cm: float | None = None
    manufacturer: str = ""
    model: str = ""
    station: str = ""


@dataclass(frozen=True, slots=True)
class StoredDoseReport:
    """A dose report whose bytes are durable in the spool; ``path`` is relative to the spool folder."""

    path: str
    sha256: str
    size_bytes: int
    received_at: dt.datetime
    calling_ae: str
    report: DoseReport


@dataclass(frozen=True, slots=True)
class DoseHeader:
    """What the images of a CT series state about their irradiation.

    Attributes
    ----------
    event_uids
        The Irradiation Event UIDs (0008,3010) of all images, sorted.
    ctdi_vol_range
        Lowest and highest CTDIvol (0018,9345) in mGy over the images; scanners that modulate the tube current may state
        it slice by slice.
    phantom_cm
        Diameter of the CTDI phantom that the images state.
    acquired_from, acquired_until
        First and last acquisition time of the images, local time of the scanner in ISO 8601; "" where unknown.
    head
        Whether the images show a head, by which SSDE is computed; noted only where they state no CTDIvol.
    """

    event_uids: tuple[str, ...] = ()
    ctdi_vol_range: tuple[float, float] | None = None
    phantom_cm: int | None = None
    acquired_from: str = ""
    acquired_until: str = ""
    head: bool = False


class LinkRule(StrEnum):
    """How a series was linked to an irradiation event."""

    EVENT_UID = "irradiation event UID"
    ONLY_EVENT = "only event of the study"
    PROTOCOL_AND_CTDI = "protocol and CTDIvol"


class DoseSource(StrEnum):
    """Where CTDIvol and DLP of a series come from."""

    REPORT = "report"
    HEADER = "header"
    NONE = ""


@dataclass(frozen=True, slots=True)
class SeriesDose:
    """The dose of one CT series.

    Attributes
    ----------
    ctdi_vol_mgy, dlp_mgy_cm, phantom_cm
        Of the linked irradiation event, else of the image headers; ``source`` says which.
    ssde_mgy, water_equivalent_diameter_mm
        Measured by the node in the images; where these state no CTDIvol, the SSDE is that of the linked event's CTDIvol
        at the measured diameter.
    event_uid
        Irradiation Event UID of the linked event, "" where there is none.
    rule
        How the event was found; None for an unlinked series, whose ``reason`` then says why.
    report_protocol
        Acquisition protocol that the report states.
    header_ctdi_vol_mgy, header_dlp_mgy_cm
        What the image headers give, whatever the report says.
    """

    series_instance_uid: str
    ctdi_vol_mgy: float | None
    dlp_mgy_cm: float | None
    phantom_cm: int | None
    source: DoseSource
    event_uid: str = ""
    rule: LinkRule | None = None
    reason: str = ""
    ssde_mgy: float | None = None
    water_equivalent_diameter_mm: float | None = None
    report_protocol: str = ""
    header_ctdi_vol_mgy: float | None = None
    header_dlp_mgy_cm: float | None = None
    remarks: str = ""
