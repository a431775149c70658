"""SUV agrees with a table worked out by hand, by every rule of QIBA; what is missing is named."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence as Items

from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.score.suv import body_surface_m2, lean_body_mass_kg
from dicom_qa_node.score.volume_builder import build_volumes
from tests.tiny_series import ENHANCED_PET, LEGACY_PET, multiframe, pet, pixels_of, write

ACTIVITY = 2.0 * pixels_of(0)[0, 0]  # Bq/ml of the first voxel: 2000
F18_S = 6586.2


@pytest.fixture
def first(tmp_path):
    """Return (unit, first voxel, its volume) of a PET series; ``drug`` replaces attributes of the injection."""

    def assembled(drug=None, count=3, change=None, **elements):
        slices = [pet(i, **elements) for i in range(count)]
        for ds in slices:
            for keyword, value in (drug or {}).items():
                item = ds.RadiopharmaceuticalInformationSequence[0]
                if value is None:
                    delattr(item, keyword)
                else:
                    setattr(item, keyword, value)
            if change:
                change(ds)
        (volume,) = build_volumes(write(tmp_path, slices))
        return volume.unit, float(volume.voxels[0, 0, 0]), volume

    return assembled


def test_the_dose_decays_from_injection_to_the_start_of_the_series(first):
    # 09:00 to 10:00 is one half life of 3600 s: 2e8 Bq left in 80 kg. SUV = 2000 * 80000 / 2e8.
    unit, value, _ = first()
    assert (unit, value) == ("SUVbw", pytest.approx(0.8, rel=1e-5))


@pytest.mark.parametrize(
    ("elements", "drug", "expected"),
    [
        # ADMIN: already corrected to the injection. 2000 * 80000 / 4e8
        ({"DecayCorrection": "ADMIN"}, {}, 0.4),
        # ADMIN needs no half life and no time.
        ({"DecayCorrection": "ADMIN"}, {"RadionuclideHalfLife": None, "RadiopharmaceuticalStartTime": None}, 0.4),
        # NONE: decayed to each slice's own time. 11:00 is two half lives: 2000 * 80000 / 1e8
        ({"DecayCorrection": "NONE", "AcquisitionTime": "110000"}, {}, 1.6),
        # ... and to the time of the mean count rate in 20 minutes, x = ln 2 / 3: 1.6 * x / (1 - exp(-x))
        (
            {"DecayCorrection": "NONE", "AcquisitionTime": "110000", "ActualFrameDuration": 1_200_000},
            {},
            1.6 * 1.11997,
        ),
        # Fluorine-18, 62 min 30 s after 370 MBq in 71.5 kg: 2000 * 71500 / (3.7e8 * 2**(-3750/6586.2)) = 0.573486...
        (
            {"PatientWeight": 71.5, "SeriesTime": "110230", "AcquisitionTime": "110230"},
            {"RadionuclideHalfLife": F18_S, "RadionuclideTotalDose": 3.7e8, "RadiopharmaceuticalStartTime": "100000"},
            0.57349,
        ),
        # Injection before midnight: 23:30 to 00:30.
        ({"SeriesTime": "003000", "AcquisitionTime": "003000"}, {"RadiopharmaceuticalStartTime": "233000"}, 0.8),
        # The full date and time of the injection wins over its time alone.
        ({}, {"RadiopharmaceuticalStartDateTime": "20240501080000", "RadiopharmaceuticalStartTime": "093000"}, 1.6),
        # A date that was shifted elsewhere is not believed; its time of day is.
        ({}, {"RadiopharmaceuticalStartDateTime": "20240502090000", "RadiopharmaceuticalStartTime": None}, 0.8),
        # A series written later than its images: back from a slice by its frame reference time (10:00:00).
        (
            {"SeriesTime": "153000", "AcquisitionTime": "100500", "FrameReferenceTime": 300_000 + 59_423.5,
             "ActualFrameDuration": 120_000},
            {},
            0.8,
        ),
        # ... or, without that, the earliest acquisition.
        ({"SeriesTime": "153000", "AcquisitionTime": "110000"}, {}, 1.6),
    ],
)  # fmt: skip
def test_table_of_suvbw(first, elements, drug, expected):
    unit, value, _ = first(drug=drug, **elements)
    assert (unit, value) == ("SUVbw", pytest.approx(expected, rel=1e-3))


def test_the_mean_count_time_lies_before_the_middle_of_a_long_frame(first):
    # 3600 s at a half life of 3600 s: ln(ln 2 / (1 - 1/2)) / ln 2 * 3600 = 1696.4 s instead of 1800 s.
    elements = {"SeriesTime": "153000", "AcquisitionTime": "110000", "ActualFrameDuration": 3_600_000}
    _, value, _ = first(**elements, FrameReferenceTime=3_600_000 + 1_696_440)
    assert value == pytest.approx(0.8, rel=1e-4)


def test_the_intercept_is_scaled_as_the_slope(first):
    _, value, _ = first(RescaleIntercept=-500)
    assert value == pytest.approx(0.8 * (2000 - 500) / 2000, rel=1e-5)


def test_ge_private_scan_time_of_a_processed_series(first):
    def add(ds):
        ds.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "DT", "20240501100000")

    _, value, _ = first(SeriesTime="153000", AcquisitionTime="120000", change=add)
    assert value == pytest.approx(0.8, rel=1e-5)


@pytest.mark.parametrize(("element", "scale", "expected"), [(0x00, 0.0005, 1.0), (0x09, 3.0, 2.4)])
def test_philips_counts(first, element, scale, expected):
    def add(ds):
        ds.private_block(0x7053, "Philips PET Private Group", create=True).add_new(element, "DS", str(scale))

    unit, value, _ = first(Units="CNTS", change=add)
    assert (unit, value) == ("SUVbw", pytest.approx(expected, rel=1e-5))


def test_gml_is_suv_already(first):
    unit, value, _ = first(Units="GML", PatientWeight=None, DecayCorrection=None, drug={"RadionuclideTotalDose": None})
    assert (unit, value) == ("SUVbw", 2000)


def test_suv_by_lean_mass_and_surface_come_back_to_weight(first):
    # 80 kg, 1.80 m, male: LBM = 88 - 128 * (80/180)**2 = 62.716 kg; BSA = 0.007184 * 80**0.425 * 180**0.725 = 1.9964 m2
    assert lean_body_mass_kg(80, 1.8, "M") == pytest.approx(62.716, abs=1e-3)
    assert lean_body_mass_kg(60, 1.65, "F") == pytest.approx(44.6298, abs=1e-3)
    assert body_surface_m2(80, 1.8) == pytest.approx(1.9964, abs=1e-3)
    _, value, volume = first(Units="GML", SUVType="LBM")
    assert value == pytest.approx(2000 * 80 / 62.716, rel=1e-4)
    assert volume.suv_ratios["SUVlbm"] * value == pytest.approx(2000, rel=1e-5)
    assert volume.suv_ratios["SUVbsa"] == pytest.approx(1.9964 * 10 / 80, rel=1e-3)


@pytest.mark.parametrize(
    ("elements", "drug", "tag"),
    [
        ({"PatientWeight": None}, {}, "(0010,1030) is missing"),
        ({"PatientWeight": 0}, {}, "(0010,1030) is 0"),
        ({}, {"RadionuclideTotalDose": None}, "(0018,1074) is missing"),
        ({}, {"RadionuclideTotalDose": 0}, "(0018,1074) is 0"),
        ({}, {"RadionuclideTotalDose": 370}, "(0018,1074) is 370"),
        ({}, {"RadionuclideHalfLife": None}, "(0018,1075) is missing"),
        ({}, {"RadiopharmaceuticalStartTime": None}, "(0018,1072) is missing"),
        ({}, {"RadiopharmaceuticalStartTime": "100300"}, "(0018,1072) lies after the scan"),
        ({"DecayCorrection": None}, {}, "(0054,1102) is missing"),
        ({"Units": None}, {}, "(0054,1001) are missing"),
        ({"Units": "CNTS"}, {}, "(7053,1000)"),
        ({"Units": "PROPCPS"}, {}, "PROPCPS"),
        ({"Units": "GML", "SUVType": "IBW"}, {}, "(0054,1006)"),
        ({"SeriesTime": None, "AcquisitionTime": None}, {}, "(0008,0032) are missing"),
        ({"DecayCorrection": "NONE", "AcquisitionTime": None}, {}, "(0008,0032) is missing"),
        ({"RadiopharmaceuticalInformationSequence": Items([])}, None, "(0018,1074) is missing"),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_guessed(first, elements, drug, tag):
    unit, value, volume = first(drug=drug, **elements)
    assert unit == ("BQML" if elements.get("Units", "BQML") == "BQML" else "relative")
    assert value == ACTIVITY
    (finding,) = (item for item in volume.findings if item.key == "suv_not_computable")
    assert tag in finding.sentence


def test_enhanced_pet_has_its_own_reference_time(tmp_path):
    slices = [pet(i) for i in range(3)]
    elements = {
        keyword: slices[0][keyword].value
        for keyword in ("PatientWeight", "RadiopharmaceuticalInformationSequence", "SeriesDate", "Modality", "Units")
    }
    made = multiframe(
        slices, ENHANCED_PET, **elements, DecayCorrected="YES", DecayCorrectionDateTime="20240501100000", KVP=None
    )
    (volume,) = build_volumes(write(tmp_path, [made]))
    assert volume.unit == "SUVbw"
    assert np.allclose(volume.voxels[1], pixels_of(1) * 2.0 * 80000 / 2e8)


@pytest.mark.parametrize("weight", [80, None])
def test_legacy_converted_pet_keeps_what_its_single_slices_said(tmp_path, weight):
    slices = [pet(i, RescaleSlope=1.0 + i) for i in (2, 0, 1)]
    unassigned = Dataset()
    for keyword in ("Units", "DecayCorrection", "SeriesDate", "SeriesTime", "RadiopharmaceuticalInformationSequence"):
        setattr(unassigned, keyword, slices[0][keyword].value)

    def convert(made):
        made.SharedFunctionalGroupsSequence[0].UnassignedSharedConvertedAttributesSequence = Items([unassigned])

    made = multiframe(slices, LEGACY_PET, convert, Modality="PT", PatientWeight=weight, KVP=None)
    (volume,) = build_volumes(write(tmp_path, [made]))
    assert volume.kind is SeriesKind.PT
    assert volume.unit == ("SUVbw" if weight else "BQML")
    scale = 80000 / 2e8 if weight else 1.0
    assert np.allclose(volume.voxels, [pixels_of(i) * (1.0 + i) * scale for i in range(3)])
    assert volume.frame_numbers == (2, 3, 1)
