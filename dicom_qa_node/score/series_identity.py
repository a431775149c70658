"""Whose images a series holds: images of two patients or two studies are never judged as one series."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields

from pydicom import Dataset

from dicom_qa_node.dicom_io import headers as at
from dicom_qa_node.domain.errors import Permanent

__all__ = ["ImageIdentity", "identity_of", "one_identity", "same_patient"]


@dataclass(frozen=True, slots=True)
class ImageIdentity:
    """What an image says of its patient and study, in a form to compare; "" where it says nothing."""

    patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    study_instance_uid: str = ""

    @property
    def patient(self) -> tuple[str, str, str]:
        """What names the patient."""
        return self.patient_id, self.patient_name, self.patient_birth_date


def identity_of(ds: Dataset) -> ImageIdentity:
    """Read the identity of a header.

    Upper and lower case, padding, and the delimiters of the name's components do not count; of a name in several
    scripts the alphabetic one does.
    """
    name = at.text(ds, "PatientName").split("=")[0] or at.text(ds, "PatientName")
    return ImageIdentity(
        patient_id=at.text(ds, "PatientID").strip().casefold(),
        patient_name=" ".join(re.split(r"[\s^=]+", name.casefold())).strip(),
        patient_birth_date="".join(filter(str.isdigit, at.text(ds, "PatientBirthDate"))),
        study_instance_uid=at.uid(ds, "StudyInstanceUID"),
    )


def same_patient(first: ImageIdentity, second: ImageIdentity) -> bool:
    """Return whether two images may be of one patient: nothing that both name differs."""
    return _compatible(first.patient, second.patient)


def one_identity(found: Iterable[ImageIdentity]) -> ImageIdentity:
    """Return the identity that all images of a series share, each attribute as one of them names it.

    Raises
    ------
    Permanent
        They name several patients or studies; the text counts the images of each and names nobody.
    """
    identities = list(found)
    patients = _distinct(item.patient for item in identities)
    if len(patients) > 1:
        raise Permanent(_several("patients", patients))
    studies = _distinct((item.study_instance_uid,) for item in identities)
    if len(studies) > 1:
        raise Permanent(_several("studies", studies))
    shared = {
        item.name: next((value for image in identities if (value := getattr(image, item.name))), "")
        for item in fields(ImageIdentity)
    }
    return ImageIdentity(**shared)


def _compatible(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    return all(one == other or not one or not other for one, other in zip(first, second, strict=True))


def _distinct(found: Iterable[tuple[str, ...]]) -> list[int]:
    """Return how many images there are of each; what an image does not name is that of an image it agrees with."""
    groups: dict[tuple[str, ...], int] = {}
    # The fullest first, so that what names less joins what names more.
    for values, count in sorted(Counter(found).items(), key=lambda item: (-sum(map(bool, item[0])), item[0])):
        group = next((known for known in groups if _compatible(known, values)), values)
        groups[group] = groups.get(group, 0) + count
    return sorted(groups.values(), reverse=True)


def _several(what: str, counts: list[int]) -> str:
    shares = ", ".join(f"{count} of {'one' if not number else 'another'}" for number, count in enumerate(counts[:5]))
    return (
        f"the series holds images of {len(counts)} {what} ({shares}): it was not scored and nothing was reported; "
        "correct the images at their source and send them again"
    )
