"""A node that holds reports and their images of several patients, as files and rows, made by the node's own code."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.uid import UID

from dicom_qa_node.config import Config
from dicom_qa_node.db.engine import Database
from dicom_qa_node.dicom_io.part10 import Origin
from dicom_qa_node.dicom_io.tls import RenewedContext
from dicom_qa_node.domain.series import StoredInstance
from dicom_qa_node.flow.jobs import Jobs
from dicom_qa_node.flow.outbox import Outbox
from dicom_qa_node.flow.registry import Registry
from dicom_qa_node.receive.admission import Admission, ConnectionSlots
from dicom_qa_node.receive.application_entity import Listener, listen, make_server
from dicom_qa_node.receive.received_association import Services
from dicom_qa_node.receive.refusals import Refusals
from dicom_qa_node.receive.services import ServiceHandler
from dicom_qa_node.receive.store_handler import StoreHandler
from dicom_qa_node.report.report_builder import report_pending
from dicom_qa_node.spool.disk_space import DiskGauge
from dicom_qa_node.spool.incoming import SpoolWriter, stored_instance
from dicom_qa_node.spool.layout import SpoolLayout
from tests.report_samples import T0, verdict
from tests.unit.encoded_images import EXPLICIT, ct, encoded, pet

ROOT = "1.2.826.0.1.3680043.10.1600"


@dataclass(frozen=True)
class Case:
    """One study with one series and its report."""

    number: int
    name: str
    patient_id: str
    study_date: str
    study_time: str
    accession: str
    description: str = "CT thorax"
    modality: str = "CT"
    sex: str = "F"
    birth: str = "19500102"
    charset: str | list[str] = "ISO_IR 100"
    study: int | None = None

    @property
    def study_uid(self) -> str:
        return f"{ROOT}.{self.study or self.number}"

    @property
    def series_uid(self) -> str:
        return f"{self.study_uid}.{self.number}.1"


CASES = (
    Case(1, "Adams^John", "PAT-1", "20260105", "071500", "ACC-1", sex="M"),
    Case(2, "Adams^Jane", "PAT-2", "20260106", "081500.25", "ACC-2", birth="19610203"),
    Case(3, "Müller^Jörg", "PAT-3", "20260107", "101112", "ACC-3", "CT Schädel"),
    Case(
        4, "Yamada^Tarou=山田^太郎=やまだ^たろう", "PAT-4", "20260108", "121314", "ACC-4", sex="M",
        charset=["", "ISO 2022 IR 87"],
    ),
    Case(
        5, "Hong^Gildong=洪^吉洞=홍^길동", "PAT-5", "20260109", "131415", "ACC-5",
        charset=["", "ISO 2022 IR 149"],
    ),
    Case(6, "Люкceмбypг", "PAT-6", "20260110", "141516", "ACC-6", charset="ISO_IR 144"),
    Case(7, "Wang^XiaoDong=王^小东", "PAT-7", "20260110", "235959", "ACC-7", charset="GB18030"),
    Case(8, "Brown^Bob", "PAT-8", "20251231", "000000", "ACC-8", "PET Ganzkörper", "PT", "O"),
    Case(9, "Brown^Bob", "PAT-8", "20260201", "093000", "ACC-9", "PET/CT", "PT", "O"),
    Case(10, "Brown^Bob", "PAT-8", "20260201", "093000", "ACC-9", "PET/CT", "CT", "O", study=9),
    Case(11, "Adamson^Ann", "PAT-11", "20260105", "071600", "", "Abdomen"),
    Case(12, "de la Cruz^María^José", "PAT-12", "20260301", "1015", "ACC-12", charset="ISO_IR 192"),
)  # fmt: skip


def images_of(case: Case, slices: int = 8) -> list[Dataset]:
    """Return the images of a case."""
    make = pet if case.modality == "PT" else ct
    return [
        make(
            SpecificCharacterSet=case.charset,
            StudyInstanceUID=case.study_uid,
            SeriesInstanceUID=case.series_uid,
            SOPInstanceUID=f"{case.series_uid}.{index + 1}",
            FrameOfReferenceUID=f"{case.series_uid}.9",
            PatientName=case.name,
            PatientID=case.patient_id,
            PatientBirthDate=case.birth,
            PatientSex=case.sex,
            StudyDate=case.study_date,
            StudyTime=case.study_time,
            StudyID=f"S{case.study or case.number}",
            AccessionNumber=case.accession,
            StudyDescription=case.description,
            ReferringPhysicianName="Referrer^Rita",
            SeriesNumber=case.number,
            SeriesDescription="thin",
            InstanceNumber=index + 1,
            ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
            ImagePositionPatient=[-40, -40, 5 * index],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            PixelSpacing=[0.75, 0.75],
            SliceThickness=5,
            RescaleIntercept=0,
            RescaleSlope=1,
        )
        for index in range(slices)
    ]


def keep(spool_dir: Path, image: Dataset, syntax: str = EXPLICIT) -> StoredInstance:
    """Put one image into the spool as the receiver does."""
    layout = SpoolLayout(spool_dir)
    layout.create()
    origin = Origin(str(image.SOPClassUID), str(image.SOPInstanceUID), syntax, "SCANNER", "DICOMQA", "a1")
    incoming = SpoolWriter(layout, lambda: T0).begin(origin)
    incoming.write(encoded(image, syntax))
    facts = incoming.facts()
    return stored_instance(incoming.keep(), origin, facts)


def fill(config: Config, database: Database, cases: tuple[Case, ...] = CASES) -> None:
    """Bring every case to REPORTED by the node's own steps."""
    registry, jobs, outbox = Registry(database), Jobs(database), Outbox(database)
    for case in cases:
        instances = [keep(config.spool_dir, image) for image in images_of(case)]
        registry.record(instances)
        (progress,) = registry.receiving()
        assert registry.complete(progress, reason="count")
        job = jobs.claim("w")
        assert job is not None
        jobs.finish(job, verdict(instances))
        assert report_pending(outbox, registry, config.spool_dir, config) == 1


def report_files(config: Config) -> list[Path]:
    """Return the files of all reports."""
    return sorted((config.spool_dir / "reports").rglob("*.dcm"))


def digest(path: Path) -> tuple[str, str]:
    """Return the SOP Instance UID and a digest of the data set of a Part 10 file."""
    ds = dcmread(path)
    body = path.read_bytes()[ds.file_meta.FileMetaInformationGroupLength + 144 :]
    return str(ds.SOPInstanceUID), hashlib.sha256(body).hexdigest()


@contextmanager
def serving(
    config: Config, database: Database, *services: ServiceHandler, tls: RenewedContext | None = None
) -> Iterator[int]:
    """Serve an application entity in this process for the block; its port."""
    layout = SpoolLayout(config.spool_dir)
    layout.create()
    gauge = DiskGauge(config.spool_dir, 0, 0)
    connection_slots = ConnectionSlots(config.receive.max_associations)
    admission = Admission(config.receive, config.ae_title, connection_slots, gauge)
    registry = Registry(database)
    intake = StoreHandler(SpoolWriter(layout), gauge, lambda receipt: registry.record([receipt]))
    listener = listen("127.0.0.1", 0)
    server = make_server(
        config,
        [Listener(listener, tls)],
        Services("test", config.receive, intake, admission, connection_slots, Refusals(intake.report), services),
    )
    stop = threading.Event()
    thread = threading.Thread(target=server.serve_until, args=(stop.is_set, 0.02), daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        stop.set()
        thread.join(5)
        for assoc in server.active_associations:
            assoc.abort(block=False)
        for assoc in server.active_associations:
            assoc.join(5)
        listener.close()


def identifier(level: str, **keys: Any) -> Dataset:
    """Return a query; None is a return key, a dict the item of a sequence."""
    ds = Dataset()
    ds.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        if isinstance(value, dict):
            item = Dataset()
            for name, inner in value.items():
                setattr(item, name, inner)
            setattr(ds, keyword, [item])
        else:
            setattr(ds, keyword, value)
    return ds


STUDY_FIND, PATIENT_FIND = UID("1.2.840.10008.5.1.4.1.2.2.1"), UID("1.2.840.10008.5.1.4.1.2.1.1")
