"""The names of reconstruction kernels of each vendor, and the noise where a name is unknown."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom import Dataset

from dicom_qa_node.phantom import CtQuality, Filter, ct_series, write
from dicom_qa_node.score import display_images
from dicom_qa_node.score.convolution_kernels import Sharpness, sharpness_of_header, sharpness_of_name
from dicom_qa_node.score.kernel_sharpness import noise_texture, sharpness_of_volume
from dicom_qa_node.score.physics.measurements import measure
from dicom_qa_node.score.reading_windows import lung_share, unread_window, windows_of
from dicom_qa_node.score.rules.evaluation import evaluate_rules
from dicom_qa_node.score.slice_selection import salient_slices
from dicom_qa_node.score.volume_builder import build_volumes
from tests.unit.synthetic_volumes import ct

SIEMENS, GE, PHILIPS, TOSHIBA, CANON = (
    "SIEMENS", "GE MEDICAL SYSTEMS", "Philips", "TOSHIBA", "Canon Medical Systems",
)  # fmt: skip
UIH, NEUSOFT = "UIH", "Neusoft Medical Systems"


@pytest.mark.parametrize(
    ("manufacturer", "names", "sharpness"),
    [
        (SIEMENS, "B10f B20f B30f B31f B35f B40s B41s I30f I31f J30s D30f Q40f H30s H31s H40s C30s", "soft"),
        (SIEMENS, "Br36d Br40d Bf37f", "soft"),
        (SIEMENS, "Br44f Bv40d Hr36 Hr40f Hc40h Qr40d AB40", "soft"),
        (SIEMENS, "B45f B46f B50f B50s I50f H50s AB50 Br49d Bv49d Br51d", "medium"),
        (SIEMENS, "B60f B70f B75f B80s I70f H60s H70h U90u", "sharp"),
        (SIEMENS, "Br57d Br59d Br64d Bl57d Bl56f Bl64f Hr60f Hr64h Qr72", "sharp"),
        (GE, "SOFT STANDARD STND STD STD+", "soft"),
        (GE, "DETAIL CHST", "medium"),
        (GE, "LUNG BONE BONEPLUS EDGE ULTRA", "sharp"),
        (PHILIPS, "A B EB SB UB XCA CB", "soft"),
        (PHILIPS, "C UC EC CC", "medium"),
        (PHILIPS, "D E L YA YB YC YD", "sharp"),
        (TOSHIBA, "FC01 FC02 FC03 FC07 FC08 FC10 FC11 FC12 FC13 FC18 FC19", "soft"),
        (TOSHIBA, "FC20 FC21 FC23 FC26 FC41 FC43 FC62 FC64 FC68", "soft"),
        (TOSHIBA, "FC04 FC05 FC09 FC14 FC15", "medium"),
        (TOSHIBA, "FC30 FC31 FC35 FC50 FC51 FC52 FC53 FC55 FC56 FC80 FC81 FC82 FC83 FC86", "sharp"),
        (CANON, "BODY BRAIN CARDIAC FC08-H FC18", "soft"),
        (CANON, "BODY_SHARP", "medium"),
        (CANON, "LUNG BONE FC52 INNER_EAR", "sharp"),
        (UIH, "B_SOFT_A B_SOFT_B B_VSOFT_B H_SOFT_B B_SOFT_AB", "soft"),
        (UIH, "B_SHARP_A B_SHARP_C H_SHARP_B B_VSHARP_B", "sharp"),
        (NEUSOFT, "F10 F20 F30", "soft"),
        (NEUSOFT, "LUNG20 Bone10", "sharp"),
        ("", "B30f STANDARD FC13 B", "soft"),
        ("", "B70f LUNG FC51 L YC", "sharp"),
    ],
)  # fmt: skip
def test_names_of_each_vendor(manufacturer, names, sharpness):
    assert {name: sharpness_of_name([name], manufacturer) for name in names.split()} == dict.fromkeys(
        names.split(), Sharpness(sharpness)
    )


@pytest.mark.parametrize(
    ("values", "manufacturer", "sharpness"),
    [
        (["I70f", "3"], SIEMENS, "sharp"),
        (["Br40d", "3"], SIEMENS, "soft"),
        (["59 .21.B50s"], SIEMENS, "medium"),
        (["59 .10.AB50"], SIEMENS, "medium"),
        (["BONE PLUS"], GE, "sharp"),
        (["Lung Enhanced (YB)"], PHILIPS, "sharp"),
        (["Standard (B)"], PHILIPS, "soft"),
        (["  l "], PHILIPS, "sharp"),
        (["L"], "HITACHI", "unknown"),
        (["E10"], "HITACHI", "unknown"),
        ([""], GE, "unknown"),
        ([], "", "unknown"),
    ],
)
def test_how_names_are_written(values, manufacturer, sharpness):
    assert sharpness_of_name(values, manufacturer) == sharpness


def test_the_group_of_an_enhanced_ct_counts_where_the_name_is_unknown():
    header = Dataset()
    header.ConvolutionKernel, header.ConvolutionKernelGroup = "K7", "LUNG"
    assert sharpness_of_header(header) is Sharpness.SHARP
    header.ConvolutionKernelGroup = "CONSTANT_ANGLE"
    assert sharpness_of_header(header) is Sharpness.UNKNOWN


@pytest.mark.parametrize("pixel_mm", [0.6, 0.9])
@pytest.mark.parametrize(
    ("peak_per_mm", "sharp"), [(0.15, False), (0.22, False), (0.25, False), (0.55, True), (0.9, True)]
)
@pytest.mark.parametrize("noise_hu", [8.0, 60.0])
def test_noise_shows_the_kernel_where_its_name_is_unknown(peak_per_mm, sharp, noise_hu, pixel_mm):
    made = ct(4, noise_hu, pixel_mm=pixel_mm, peak_per_mm=peak_per_mm, elements={"ConvolutionKernel": "XQ7"})
    found = sharpness_of_volume(made)
    assert found.sharp is sharp
    assert "by its noise" in found.detail


def test_without_noise_nothing_shows_the_kernel():
    assert noise_texture(ct(4, 0.0)) is None
    made = ct(4, 0.0, elements={"ConvolutionKernel": "XQ7"})
    assert sharpness_of_volume(made).sharpness is Sharpness.UNKNOWN
    said = next(found for found in measure(made) if found.name == "kernel_sharpness")
    assert said.value is None
    assert "XQ7 is not known" in said.not_applicable


@pytest.mark.parametrize("kernel", ["L", "B70f", "FC51", "BONEPLUS", "B_SHARP_C", "NEVER HEARD"])
def test_a_sharp_kernel_is_neither_noise_nor_motion(kernel):
    made = ct(8, 70.0, peak_per_mm=0.7, elements={"ConvolutionKernel": kernel})
    keys = {finding.key for finding in evaluate_rules(made, measure(made))}
    assert "sharp_kernel" in keys
    assert not keys & {"noise_high", "motion"}


def test_noise_of_a_soft_kernel_is_still_noise():
    made = ct(8, 70.0, elements={"ConvolutionKernel": "XQ7"})
    assert "noise_high" in {finding.key for finding in evaluate_rules(made, measure(made))}


@pytest.fixture(scope="module")
def chest_and_abdomen():
    """A scan from the top of the lungs to below them in a sharp kernel."""
    images = ct_series(5, 40, 256, CtQuality(kernel=Filter.RAM_LAK, noise_hu=40), spacing_mm=10.0, centre_mm=-30.0)
    for image in images:
        image.Manufacturer, image.ConvolutionKernel = "Philips", "L"
    return images


def test_a_chest_in_a_lung_kernel_is_judged_on_lungs_in_the_lung_window(chest_and_abdomen, tmp_path):
    volume = build_volumes(write(chest_and_abdomen, tmp_path))[0]
    shares = np.array([lung_share(volume, index) for index in range(40)])
    assert 10 <= np.count_nonzero(shares > 0.1) <= 30
    chosen = [item.index for item in salient_slices(volume)]
    assert len(chosen) == 7
    assert shares[chosen].min() >= 0.1
    assert set(windows_of(volume, chosen)) == {display_images.LUNG}


def test_the_same_chest_in_a_soft_kernel_is_judged_as_a_whole(chest_and_abdomen, tmp_path):
    for image in chest_and_abdomen:
        image.ConvolutionKernel = "B"
    volume = build_volumes(write(chest_and_abdomen, tmp_path))[0]
    chosen = [item.index for item in salient_slices(volume)]
    assert min(lung_share(volume, index) for index in chosen) < 0.1
    assert set(windows_of(volume, chosen)) == {display_images.SOFT_TISSUE}


def test_an_abdomen_in_a_bone_kernel_is_not_read_in_the_lung_window():
    made = ct(4, elements={"ConvolutionKernel": "BONE"})
    windows = windows_of(made, [0, 3])
    assert windows == (display_images.BONE, display_images.BONE)
    assert "BONE is made for bone" in unread_window(windows, sharpness_of_volume(made))
