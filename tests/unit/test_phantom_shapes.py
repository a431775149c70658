"""Which bodies count as the straight cylinder of a phantom, and what patients have in common with one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dicom_qa_node.phantom import ct_series, identity_of, pet_series
from dicom_qa_node.phantom import write as write_phantom
from dicom_qa_node.phantom.catphan import catphan_series
from dicom_qa_node.phantom.qc_ct import CtPhantomForm, DrawnSlice, acr_ct_series, qc_series, water_series
from dicom_qa_node.phantom.qc_pet import uniform_pet_series
from dicom_qa_node.quality_control.outline import CT_THRESHOLD_HU, outline_of, pet_threshold
from dicom_qa_node.score.pipeline import score_series
from dicom_qa_node.score.volume_builder import build_volumes
from tests.stub_model import TinyScorer

COARSE = CtPhantomForm(rows=128, spacing_mm=4.0, thickness_mm=4.0, noise_hu=6.0)


def tissue_characterisation(form: CtPhantomForm, slices: int = 14):
    """A disc of 330 mm and 52 mm length with two rings of eight inserts, as the Gammex 467 is."""

    def draw(plane: DrawnSlice, _z: float) -> None:
        plane.disc(5.0, 165.0)
        for ring, radius in enumerate((60.0, 110.0)):
            for number in range(8):
                plane.disc(-700.0 + 250.0 * number, 14.0, 45.0 * number + 22.5 * ring, radius)

    return qc_series("discs", replace(form, fov_mm=400.0), slices, 0.0, draw, None, None, "")


def is_cylinder(folder, images):
    (volume,) = build_volumes(write_phantom(images, folder))
    threshold = CT_THRESHOLD_HU if volume.kind.value == "ct" else pet_threshold(volume.voxels)
    return outline_of(volume.voxels, volume.positions_mm, volume.spacing_mm[1:], threshold).is_cylinder


PHANTOMS = {
    "catphan": lambda: catphan_series("504", COARSE),
    "catphan on a table": lambda: catphan_series("604", replace(COARSE, table=True)),
    "acr with its inserts": lambda: acr_ct_series(COARSE, slices=40),
    "water off the axis": lambda: water_series(replace(COARSE, centre_mm=(12.0, -9.0))),
    "tissue characterisation": lambda: tissue_characterisation(COARSE),
    "uniform pet": uniform_pet_series,
}


@pytest.mark.parametrize("name", PHANTOMS)
def test_phantoms_are_known_by_their_shape(tmp_path, name):
    assert is_cylinder(tmp_path, PHANTOMS[name]())


@pytest.mark.parametrize("seed", range(1, 13))
def test_generated_patients_are_no_cylinders(tmp_path, seed):
    assert not is_cylinder(tmp_path / "ct", ct_series(seed, 40, 128))
    assert not is_cylinder(tmp_path / "pet", pet_series(seed, 40, 96, pixel_mm=5.0))


def test_a_round_chest_named_phantom_stays_a_patient(tmp_path):
    """The body fills 98 % of its circle, and its diameter changes by less than 0.4 mm over ten slices."""
    images = ct_series(4, 40, 128, identity=replace(identity_of(4), patient_name="Phantom^Alice"))
    result = score_series(write_phantom(images, tmp_path), scorer=TinyScorer()).result
    assert result.qc_phantom is None
    assert result.score is not None


def cut_to_a_circle(images):
    """A reconstruction of 180 mm within a body: tissue up to the circle that the scanner pads around."""
    for ds in images:
        side = ds.Rows
        axis = np.arange(side) - (side - 1) / 2
        inside = np.hypot(axis[:, None], axis[None, :]) <= side / 2
        values = np.where(inside, 40 + np.random.default_rng(1).normal(0, 10, inside.shape), -2000)
        ds.PixelSpacing = [180 / side, 180 / side]
        ds.PixelData = ((values - float(ds.RescaleIntercept)) / float(ds.RescaleSlope)).astype("<i2").tobytes()
    return images


def test_a_body_that_is_cut_to_a_circle_is_no_cylinder(tmp_path):
    images = ct_series(4, 30, 128, identity=replace(identity_of(4), patient_name="QA^Wang"))
    result = score_series(write_phantom(cut_to_a_circle(images), tmp_path), scorer=TinyScorer()).result
    assert result.qc_phantom is None
