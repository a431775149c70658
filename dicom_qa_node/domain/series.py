"""Received instances and associations, as the receiver records them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from dicom_qa_node.domain.dose import StoredDoseReport
from dicom_qa_node.domain.states import SeriesState

__all__ = [
    "AssociationEnd",
    "AssociationStart",
    "Job",
    "Quarantined",
    "Receipt",
    "RefusedCaller",
    "RepeatedInstance",
    "SeriesHeader",
    "SeriesProgress",
    "StoredInstance",
]


@dataclass(frozen=True, slots=True)
class SeriesHeader:
    """Patient, study, series and equipment facts of one series, as decoded Unicode text ("" where absent).

    Built by ``dicom_io.instance_header``; dates and times stay in their DICOM form (``DA``, ``TM``).
    """

    series_instance_uid: str
    study_instance_uid: str
    modality: str
    frame_of_reference_uid: str = ""
    patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    accession_number: str = ""
    study_id: str = ""
    study_date: str = ""
    study_time: str = ""
    study_description: str = ""
    series_number: str = ""
    series_description: str = ""
    body_part_examined: str = ""
    protocol_name: str = ""
    manufacturer: str = ""
    manufacturer_model_name: str = ""
    station_name: str = ""
    device_serial_number: str = ""
    institution_name: str = ""


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """One instance whose bytes are durable in the spool.

    ``path`` is relative to the spool folder. ``expected`` is the count that the header itself promises for
    this instance's group (``NumberOfSlices`` x ``NumberOfTimeSlices`` for PET, ``ImagesInAcquisition`` for CT,
    1 for a multi-frame object), None where it says nothing; ``expected_group`` names that group (for CT the
    ``AcquisitionNumber``), so that the counts of several acquisitions of one series add up.
    ``conflict`` is True for another image under a SOP Instance UID that is already stored: kept apart, never scored;
    ``differs`` then says in what, such as "patient, pixels". ``remark`` is what the standard forbids in its header, for
    the history of the series; it is not kept with the instance.
    """

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    path: str
    sha256: str
    size_bytes: int
    received_at: dt.datetime
    calling_ae: str
    association_id: str
    series: SeriesHeader
    instance_number: int | None = None
    number_of_frames: int = 1
    expected: int | None = None
    expected_group: str = ""
    conflict: bool = False
    differs: str = ""
    remark: str = ""


@dataclass(frozen=True, slots=True)
class AssociationStart:
    """A peer's association was accepted; series it feeds are not complete by count before it ends."""

    association_id: str
    calling_ae: str
    host: str
    receiver: str
    at: dt.datetime


@dataclass(frozen=True, slots=True)
class AssociationEnd:
    """An association was released, aborted or lost; every instance of it was recorded before."""

    association_id: str
    at: dt.datetime
    aborted: bool = False


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An object that could not be accepted; its bytes lie at ``path`` (relative to the spool).

    ``calling_ae`` is empty for what was accepted and found damaged in the spool later.
    """

    path: str
    reason: str
    calling_ae: str
    sop_instance_uid: str
    at: dt.datetime


@dataclass(frozen=True, slots=True)
class RefusedCaller:
    """A caller on the DICOM port was refused or dropped ``times`` times; titles are empty where it gave none."""

    host: str
    calling_ae: str
    called_ae: str
    reason: str
    at: dt.datetime
    times: int = 1


@dataclass(frozen=True, slots=True)
class RepeatedInstance:
    """An image of a series came again, the same as the stored one."""

    series_instance_uid: str
    at: dt.datetime


Receipt = (
    StoredInstance
    | StoredDoseReport
    | AssociationStart
    | AssociationEnd
    | Quarantined
    | RefusedCaller
    | RepeatedInstance
)


@dataclass(frozen=True, slots=True)
class SeriesProgress:
    """What the completion rules may look at for one series in RECEIVING.

    ``expected`` is the sum over the groups that announced a count, None if a group announced none.
    ``open_associations`` counts the associations still open that brought instances of this series.
    ``first_received_at`` is the arrival of the first image since the series last entered RECEIVING.
    ``forgotten`` counts the images of earlier versions that retention has removed and that did not come again.
    ``paired_series`` are the CT series (for PET) of the same study and frame of reference with their state,
    the one with the most images first.
    """

    series_instance_uid: str
    study_instance_uid: str
    modality: str
    frame_of_reference_uid: str
    received: int
    expected: int | None
    open_associations: int
    first_received_at: dt.datetime
    last_received_at: dt.datetime
    version: int
    paired_series: tuple[tuple[str, SeriesState], ...] = ()
    forgotten: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed piece of work; ``lease_token`` proves the claim on every later call."""

    job_id: int
    kind: str
    series_instance_uid: str
    version: int
    attempt: int
    lease_token: str
    pair_series_uid: str | None = None
