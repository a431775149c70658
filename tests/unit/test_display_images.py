"""Pictures from HU and SUV, and the crops that cover them."""

from __future__ import annotations

import numpy as np
import pytest

from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.score import display_images


def test_ct_window_maps_its_ends_to_black_and_white() -> None:
    hu = np.array([[-3000.0, -135.0, 40.0, 215.0, 3000.0]])
    assert display_images.ct_display_image(hu)[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_fused_picture_shows_the_table_of_the_public_data_at_153_grey() -> None:
    picture = display_images.fused_display_image(np.full((1, 1), 400.0), np.zeros((1, 1)))
    assert picture[0, 0].tolist() == [153, 153, 153]


def test_fused_picture_of_uptake_turns_red_then_yellow_then_white() -> None:
    suv = np.array([[0.0, 2.19, 4.476, 6.0]])
    picture = display_images.fused_display_image(np.full((1, 4), -1000.0), suv)
    assert picture[0].tolist() == [[0, 0, 0], [102, 0, 0], [102, 102, 0], [102, 102, 102]]


def test_fused_picture_needs_one_grid() -> None:
    with pytest.raises(ValueError, match="not on one grid"):
        display_images.fused_display_image(np.zeros((4, 4)), np.zeros((2, 2)))


def test_pet_alone_is_dark_where_there_is_uptake() -> None:
    assert display_images.pet_display_image(np.array([[0.0, 3.0, 60.0]]))[0, :, 0].tolist() == [255, 128, 0]


@pytest.mark.parametrize(
    ("kernel", "window"),
    [
        ("B30f", display_images.SOFT_TISSUE),
        ("B70f", display_images.LUNG),
        ("I70f", display_images.LUNG),
        ("Br40d", display_images.SOFT_TISSUE),
        ("STANDARD", display_images.SOFT_TISSUE),
        ("LUNG", display_images.LUNG),
        ("BONEPLUS", display_images.LUNG),
        ("FC13", display_images.SOFT_TISSUE),
        ("", display_images.SOFT_TISSUE),
    ],
)
def test_sharp_kernels_are_read_in_the_lung_window(kernel: str, window: display_images.Window) -> None:
    assert display_images.window_for_kernel(kernel) is window


def _body(rows: int, columns: int, box: tuple[int, int, int, int]) -> display_images.Picture:
    picture = np.zeros((rows, columns, 3), np.uint8)
    picture[box[0] : box[1], box[2] : box[3]] = 120
    return picture


def test_crops_cover_the_whole_body_on_the_grid() -> None:
    picture = _body(512, 512, (80, 430, 30, 500))
    crops = display_images.crop_plan(picture, 256, SeriesKind.CT)
    seen = np.zeros((512, 512), bool)
    for crop in crops:
        assert crop.row % 8 == crop.column % 8 == 0
        seen[crop.row : crop.row + 256, crop.column : crop.column + 256] = True
    assert len(crops) == 4
    assert seen[80:430, 30:500].mean() > 0.99
    assert display_images.cut(picture, crops, 256).shape == (4, 256, 256, 3)


def test_small_body_needs_one_crop_with_air_around_it() -> None:
    crops = display_images.crop_plan(_body(512, 512, (200, 300, 220, 330)), 256, SeriesKind.CT)
    assert len(crops) == 1
    assert 0.05 < crops[0].weight < 0.5


def test_crops_of_a_larger_matrix_are_at_most_nine() -> None:
    crops = display_images.crop_plan(_body(1024, 1024, (8, 1016, 8, 1016)), 256, SeriesKind.CT)
    assert len(crops) == 9


def test_picture_of_air_gives_one_crop() -> None:
    assert len(display_images.crop_plan(_body(512, 512, (0, 0, 0, 0)), 256, SeriesKind.CT)) == 1


@pytest.mark.parametrize(("kind", "air"), [(SeriesKind.CT, 0), (SeriesKind.PETCT, 0), (SeriesKind.PT, 255)])
def test_padding_is_air(kind: SeriesKind, air: int) -> None:
    padded = display_images.pad_image(np.full((150, 301, 3), 99, np.uint8), 256, kind)
    assert padded.shape == (256, 304, 3)
    assert (padded[150:] == air).all()
    assert (padded[:150, :301] == 99).all()


def test_body_fraction_counts_tissue() -> None:
    assert display_images.body_fraction(_body(64, 64, (0, 32, 0, 64)), SeriesKind.CT) == 0.5


def test_float_pictures_outside_their_range_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        display_images.as_uint8(np.full((1, 8, 8, 3), 1.5, np.float32))
    with pytest.raises(ValueError, match="shape"):
        display_images.as_uint8(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8 or float"):
        display_images.as_uint8(np.zeros((1, 8, 8, 3), np.int16))
    assert display_images.as_uint8(np.full((1, 8, 8, 3), 0.5, np.float32)).max() == 128
