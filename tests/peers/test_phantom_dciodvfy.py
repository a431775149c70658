"""Generated objects against dicom3tools: no errors in any form."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicom_qa_node import phantom
from dicom_qa_node.phantom import CtForm, DecayCorrection, PetForm, Plane, Units, encoding, enhanced, irregular_series
from dicom_qa_node.phantom.enhanced import legacy_converted

pytestmark = pytest.mark.peers

CT_FORMS = {
    "plain": CtForm(),
    "unsigned": CtForm(signed=False, padding=0),
    "padded": CtForm(padding=-2000, slope=0.5),
    "tilted": CtForm(tilt_deg=12),
    "decubitus": CtForm(plane=Plane.RIGHT_DOWN, patient_position="HFDR"),
    "feet-first": CtForm(patient_position="FFS"),
    "coronal": CtForm(plane=Plane.CORONAL),
}
PET_FORMS = {
    "bqml": PetForm(),
    "gml": PetForm(units=Units.GML, decay=DecayCorrection.ADMIN),
    "cnts": PetForm(units=Units.CNTS, decay=DecayCorrection.NONE, signed=False),
    "no-suv": PetForm(suv_attributes=False),
}


def complaints(ds: Dataset, folder: Path) -> list[str]:
    (path,) = phantom.write([ds], folder)
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False, timeout=60)
    report = done.stderr + done.stdout
    assert report.strip(), "dciodvfy said nothing, not even the IOD"
    return [line for line in report.splitlines() if line.startswith("Error")]


@pytest.mark.parametrize("name", CT_FORMS)
def test_ct_forms(name: str, tmp_path: Path) -> None:
    images = phantom.ct_series(4, 3, 64, form=CT_FORMS[name])
    assert complaints(images[-1], tmp_path) == []


@pytest.mark.parametrize("name", PET_FORMS)
def test_pet_forms(name: str, tmp_path: Path) -> None:
    images = phantom.pet_series(4, 3, 48, pixel_mm=9.0, form=PET_FORMS[name])
    assert complaints(images[-1], tmp_path) == []


def test_petct_study(tmp_path: Path) -> None:
    ct, pet = phantom.petct_study(4, ct_slices=3, ct_rows=64, pet_rows=48, pet_pixel_mm=10.0)
    assert complaints(ct[0], tmp_path) == []
    assert complaints(pet[0], tmp_path) == []


@pytest.mark.parametrize("make", [legacy_converted, enhanced.enhanced_ct])
def test_multiframe_ct(make: object, tmp_path: Path) -> None:
    assert complaints(make(phantom.ct_series(4, 3, 64)), tmp_path) == []  # type: ignore[operator]


@pytest.mark.parametrize("make", [legacy_converted, enhanced.enhanced_pet])
def test_multiframe_pet(make: object, tmp_path: Path) -> None:
    assert complaints(make(phantom.pet_series(4, 3, 48, pixel_mm=9.0)), tmp_path) == []  # type: ignore[operator]


def test_localizer(tmp_path: Path) -> None:
    assert complaints(irregular_series.localizer(phantom.ct_series(4, 3, 64)), tmp_path) == []


# Debian's dciodvfy is built without zlib and cannot read the deflated syntax
@pytest.mark.parametrize(
    "uid",
    [u for u in encoding.PLAIN_SYNTAXES + encoding.COMPRESSED_SYNTAXES if u != encoding.DeflatedExplicitVRLittleEndian],
)
def test_transfer_syntaxes(uid: str, tmp_path: Path) -> None:
    assert complaints(encoding.encoded(phantom.ct_series(4, 1, 64)[0], uid), tmp_path) == []


@pytest.mark.parametrize(
    ("tool", "uid"),
    [
        ("dcmdjpeg", encoding.JPEGLosslessSV1),
        ("dcmdjpls", encoding.JPEGLSLossless),
        ("dcmdrle", encoding.RLELossless),
        ("dcmconv", encoding.DeflatedExplicitVRLittleEndian),
    ],
)
def test_dcmtk_decodes(tool: str, uid: str, tmp_path: Path) -> None:
    import pydicom

    image = phantom.ct_series(4, 1, 64)[0]
    (path,) = phantom.write([encoding.encoded(image, uid)], tmp_path)
    extra = ["+te"] if tool == "dcmconv" else []
    subprocess.run([tool, *extra, str(path), str(tmp_path / "plain.dcm")], check=True, timeout=60)
    assert (pydicom.dcmread(tmp_path / "plain.dcm").pixel_array == image.pixel_array).all()
