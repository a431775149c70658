"""A series of two patients or two studies is never judged; what names a patient in another spelling is one patient."""

from __future__ import annotations

import pytest
from pydicom import dcmread

from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.phantom import ct_series, petct_study
from dicom_qa_node.phantom import write as write_phantom
from dicom_qa_node.score.pipeline import score_series
from dicom_qa_node.score.volume_builder import scan_headers
from tests.stub_model import TinyScorer


@pytest.fixture
def files(tmp_path):
    return write_phantom(ct_series(3, 9, 64, spacing_mm=12.0), tmp_path)


def change(paths, **elements):
    for path in paths:
        ds = dcmread(path)
        for keyword, value in elements.items():
            setattr(ds, keyword, value)
        ds.save_as(path)


@pytest.mark.parametrize(
    ("elements", "what"),
    [
        ({"PatientID": "OTHER", "PatientName": "Other^Patient"}, "2 patients"),
        ({"PatientID": "OTHER"}, "2 patients"),
        ({"PatientName": "Other^Patient"}, "2 patients"),
        ({"PatientBirthDate": "19010101"}, "2 patients"),
        ({"StudyInstanceUID": "1.2.3.4.5"}, "2 studies"),
    ],
)
def test_images_of_two_are_counted_and_not_judged(files, elements, what):
    change(files, PatientID="FIRST", PatientName="First^Patient", PatientBirthDate="19600101")
    change(files[6:], **elements)
    with pytest.raises(Permanent) as error:
        score_series(files, scorer=TinyScorer())
    assert f"{what} (6 of one, 3 of another)" in str(error.value)
    assert not any(word in str(error.value) for word in ("FIRST", "OTHER", "First", "Other"))


def test_three_patients_are_three(files):
    change(files, PatientName="", PatientBirthDate="")
    for number, path in enumerate(files):
        change([path], PatientID=f"P{number // 3}")
    with pytest.raises(Permanent, match=r"3 patients \(3 of one, 3 of another, 3 of another\)"):
        scan_headers(files)


@pytest.mark.parametrize(
    "elements",
    [
        {"PatientName": "FIRST^PATIENT^^"},
        {"PatientName": "First Patient"},
        {"PatientName": "First^Patient=患者"},
        {"PatientID": " FIRST "},
        {"PatientName": ""},
        {"PatientID": "", "PatientBirthDate": ""},
    ],
)
def test_another_spelling_or_an_empty_element_is_no_other_patient(files, elements):
    change(files, SpecificCharacterSet="ISO_IR 192")
    change(files, PatientID="FIRST", PatientName="First^Patient", PatientBirthDate="19600101")
    change(files[6:], **elements)
    assert scan_headers(files).identity.patient == ("first", "first patient", "19600101")


def test_a_name_in_two_character_sets_is_one_name(files):
    change(files, PatientName="", SpecificCharacterSet="ISO_IR 100")
    change(files[:4], PatientName="Müller^Jürgen")
    change(files[4:], SpecificCharacterSet="ISO_IR 192", PatientName="Müller^Jürgen")
    assert scan_headers(files).identity.patient_name == "müller jürgen"


def test_a_pet_is_not_fused_with_the_ct_of_another_patient(tmp_path):
    images = petct_study(5, ct_slices=8, ct_rows=64, ct_spacing_mm=20, pet_rows=48, pet_pixel_mm=12, pet_spacing_mm=20)
    ct, pet = (write_phantom(series, tmp_path / name) for series, name in zip(images, ("ct", "pet"), strict=True))
    change(ct, PatientID="SOMEBODY-ELSE")
    result = score_series(pet, pair_paths=ct, scorer=TinyScorer()).result
    (finding,) = [item for item in result.findings if item.key == "petct_not_paired"]
    assert "it names another patient than the PET" in finding.sentence
    assert result.pair_series_uid is None
