"""The presentation contexts that the node accepts: CT and PET storage in every syntax it can score; verification."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.uid import (
    JPEG2000,
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    EnhancedPETImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
    PositronEmissionTomographyImageStorage,
    RLELossless,
)
from pynetdicom.presentation import PresentationContext, build_context

from dicom_qa_node.receive.further import FurtherService, merged_contexts

__all__ = ["STORAGE_CLASSES", "TRANSFER_SYNTAXES", "storage_contexts", "supported_contexts"]

VERIFICATION = UID("1.2.840.10008.1.1")
STORAGE_CLASSES: tuple[UID, ...] = (
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    PositronEmissionTomographyImageStorage,
    EnhancedPETImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
)

# The first one that a peer proposes in a context is taken: lossless and cheap to read before lossy.
TRANSFER_SYNTAXES: tuple[UID, ...] = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    JPEGLosslessSV1,
    JPEGLossless,
    JPEG2000Lossless,
    RLELossless,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEGLSNearLossless,
    JPEG2000,
)


def storage_contexts() -> list[PresentationContext]:
    """Return one context per storage class with every transfer syntax."""
    return [build_context(sop_class, list(TRANSFER_SYNTAXES)) for sop_class in STORAGE_CLASSES]


def supported_contexts(further: Sequence[FurtherService] = ()) -> list[PresentationContext]:
    """Return everything the receiver accepts, with the contexts of ``further`` services."""
    return merged_contexts(storage_contexts(), [build_context(VERIFICATION)], further)
