"""Makes the page that people see into objects: Secondary Capture image (PS3.3 A.8) and Encapsulated PDF (A.45.1)."""

from __future__ import annotations

from PIL import Image
from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.uid import EncapsulatedPDFStorage, SecondaryCaptureImageStorage
from pydicom.valuerep import DT

from dicom_qa_node.canvas import Drawn
from dicom_qa_node.config import Config
from dicom_qa_node.domain.delivery import DocumentKind, ReportRef
from dicom_qa_node.report import sr_codes
from dicom_qa_node.report.document_base import (
    finished,
    new_object,
    of_report,
    reference,
    series_references,
    source_images,
)
from dicom_qa_node.report.source_headers import Sources
from dicom_qa_node.report.sr_codes import coded_concept
from dicom_qa_node.report.sr_document import ReportRequest, local_time
from dicom_qa_node.report.summary_page.pdf import pdf_page
from dicom_qa_node.report.summary_page.wording import Words

__all__ = ["PDF_SOP_CLASS_UID", "SC_SOP_CLASS_UID", "pdf_of", "secondary_capture"]

SC_SOP_CLASS_UID = str(SecondaryCaptureImageStorage)
PDF_SOP_CLASS_UID = str(EncapsulatedPDFStorage)

_DPI = 150.0


def secondary_capture(
    page: Drawn, request: ReportRequest, sources: Sources, config: Config, earlier: ReportRef | None = None
) -> bytes:
    """Return the page as a Secondary Capture image: RGB, 8 bits, not compressed, so that every archive takes it.

    Parameters
    ----------
    earlier
        The same document of the version before.
    """
    with disable_value_validation():
        image = new_object(DocumentKind.IMAGE, SC_SOP_CLASS_UID, "OT", request, sources, config)
        image.ConversionType = "WSD"
        image.DateOfSecondaryCapture, image.TimeOfSecondaryCapture = image.ContentDate, image.ContentTime
        image.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
        image.PatientOrientation = image.Laterality = ""
        image.BurnedInAnnotation = "YES"
        image.RecognizableVisualFeatures = "NO"
        image.DerivationDescription = "Page with the image quality of a series, drawn from its quality report"
        image.SourceImageSequence = source_images(sources)
        image.ReferencedInstanceSequence = _related(request, earlier)
        image.ReferencedSeriesSequence = series_references(sources, of_report(request))
        image.LossyImageCompression = "00"
        _set_pixels(image, page.picture)
    return finished(image, sources)


def pdf_of(
    page: Drawn, request: ReportRequest, sources: Sources, config: Config, earlier: ReportRef | None = None
) -> bytes:
    """Return the page as an Encapsulated PDF with its text to search; see `secondary_capture`."""
    title = Words(config.report.language)("title")
    with disable_value_validation():
        document = new_object(DocumentKind.PDF, PDF_SOP_CLASS_UID, "DOC", request, sources, config)
        document.ConversionType = "WSD"
        document.AcquisitionDateTime = DT(local_time(request.scored_at, sources.main).replace(tzinfo=None))
        document.BurnedInAnnotation = "YES"
        document.RecognizableVisualFeatures = "NO"
        document.SourceInstanceSequence = [_without_purpose(item) for item in source_images(sources)]
        document.DocumentTitle = title
        document.ConceptNameCodeSequence = [coded_concept(sr_codes.IMAGING_MEASUREMENT_REPORT)]
        document.ReferencedInstanceSequence = _related(request, earlier)
        document.MIMETypeOfEncapsulatedDocument = "application/pdf"
        content = pdf_page(
            page.picture, page.lines, dpi=_DPI, title=title, language=config.report.language, at=request.scored_at
        )  # fmt: skip
        document.EncapsulatedDocumentLength = len(content)
        document.EncapsulatedDocument = content + bytes(len(content) % 2)
    return finished(document, sources)


def _related(request: ReportRequest, earlier: ReportRef | None) -> list[Dataset]:
    report = of_report(request)
    items = [reference(report.sop_class_uid, report.sop_instance_uid, sr_codes.IMAGING_MEASUREMENT_REPORT)]
    if earlier is not None:
        items.append(reference(earlier.sop_class_uid, earlier.sop_instance_uid, sr_codes.PREDECESSOR))
    return items


def _without_purpose(item: Dataset) -> Dataset:
    del item.PurposeOfReferenceCodeSequence
    return item


def _set_pixels(image: Dataset, page: Image.Image) -> None:
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PlanarConfiguration = 3, "RGB", 0
    image.Rows, image.Columns = page.height, page.width
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    content = page.tobytes()
    image.add_new("PixelData", "OB", content + bytes(len(content) % 2))
