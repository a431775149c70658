"""Every real CT is in HU and shows its kernel's sharpness; the same with a broken scale is recognised."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from pydicom import dcmread

from dicom_qa_node.score.kernel_sharpness import noise_texture, sharpness_of_volume
from dicom_qa_node.score.physics.hu_scale import ScaleFault, check_hu_scale
from dicom_qa_node.score.volume_builder import build_volumes

pytestmark = pytest.mark.realdata

FOLDERS = ("ct_multiscanner/dicom", "dicom/ct", "dicom/ct_phantoms", "dicom/petct")
FAULTS = {
    ScaleFault.OFFSET: (lambda hu: hu + 1024, lambda hu: hu - 1024, lambda hu: np.maximum(hu + 1000, 0)),
    ScaleFault.SLOPE: (lambda hu: 2 * (hu + 1024) - 1024, lambda hu: 10 * hu),
    ScaleFault.NEGATIVES: (lambda hu: np.maximum(hu, 0),),
    ScaleFault.WINDOW: (lambda hu: np.clip(hu, -160, 240), lambda hu: np.clip(hu, -500, 1300)),
    ScaleFault.SIGN: (lambda hu: np.where(hu < 0, hu + 65536, hu),),
}


@pytest.fixture(scope="module")
def volumes(shared_data):
    series = defaultdict(list)
    for folder in FOLDERS:
        for path in sorted((shared_data / folder).rglob("*.dcm")):
            header = dcmread(path, stop_before_pixels=True, specific_tags=["Modality", "SeriesInstanceUID"])
            if header.Modality == "CT":
                series[header.SeriesInstanceUID].append(path)
    return [volume for paths in series.values() for volume in build_volumes(paths[:24])]


def test_no_real_ct_is_blank_or_off_the_scale(volumes):
    assert len(volumes) > 80
    keys = {"hu_scale_off", "images_blank", "slices_blank", "unit_unexpected"}
    assert not [volume.findings for volume in volumes if keys & {finding.key for finding in volume.findings}]
    assert not [volume.unusable for volume in volumes if volume.unusable]


def test_the_noise_agrees_with_the_name_of_every_kernel(volumes):
    for volume in volumes:
        texture = noise_texture(volume)
        named = sharpness_of_volume(volume)
        assert texture is None or texture.sharp == named.sharp, (named, texture)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_scale_is_recognised_on_nearly_all(volumes, fault):
    for change in FAULTS[fault]:
        found = []
        for volume in volumes:
            hu = np.asarray(volume.voxels)
            broken = np.asarray(change(hu), np.float32)
            valid = broken > -1500 if volume.valid is None else np.asarray(volume.valid[:]) & (broken > -1500)
            found.append(check_hu_scale(replace(volume, voxels=broken, valid=valid)).fault)
        assert sum(item is fault for item in found) >= 0.97 * len(found)
        assert sum(item is None for item in found) <= 0.03 * len(found)
