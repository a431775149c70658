"""The quick filters of the measurements and of the evidence maps say what their plain counterparts say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional

from dicom_qa_node.models.layers import _high_pass, _pool
from dicom_qa_node.score.physics.ct_sampling import block_mean
from dicom_qa_node.score.physics.petct_registration import _shifted
from dicom_qa_node.score.physics.square_windows import grown, shrunk, sliding_mean


@pytest.mark.parametrize("factors", [(1, 1), (1, 3), (2, 2), (4, 1), (3, 5), (7, 11)])
def test_block_means_are_the_means_of_blocks(factors):
    down, across = factors
    image = np.random.default_rng(1).normal(40, 300, (61, 47)).astype(np.float32)
    rows, columns = 61 // down, 47 // across
    blocks = image[: rows * down, : columns * across].reshape(rows, down, columns, across)
    means = block_mean(image, factors)
    assert means.dtype == np.float32
    np.testing.assert_allclose(means, blocks.mean(axis=(1, 3), dtype=np.float64), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("radius", [0, 0.4, 1, 2, 3.3, 7, 8, 20])
@pytest.mark.parametrize("shape", [(256, 200), (37, 51), (5, 4)])
def test_squares_grow_and_shrink_masks_as_the_filters_of_extremes_do(shape, radius):
    mask = np.random.default_rng(5).random(shape) > 0.3
    size = 2 * round(radius) + 1
    assert np.array_equal(shrunk(mask, radius), ndimage.minimum_filter(mask, size, mode="nearest"))
    assert np.array_equal(grown(~mask, radius), ndimage.maximum_filter(~mask, size, mode="nearest"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [3, 5, 7, 9, 13, 15])
def test_sliding_means_are_those_of_the_uniform_filter(size, dtype):
    image = np.random.default_rng(6).normal(0, 300, (61, 47)).astype(dtype)
    before = image.copy()
    means = sliding_mean(image, size)
    assert means.dtype == dtype
    expected = ndimage.uniform_filter(image.astype(np.float64), size, mode="nearest")
    np.testing.assert_allclose(means, expected, atol=1e-4 if dtype is np.float32 else 1e-10)
    assert np.array_equal(image, before)


@pytest.mark.parametrize("outside", [None, -7.0], ids=["last values", "constant"])
@pytest.mark.parametrize("way", [(0.0, 0.0), (1.0, -2.0), (0.25, 0.75), (-3.4, 2.9), (40.0, -40.0)])
def test_a_shift_in_planes_is_the_linear_shift_of_the_volume(way, outside):
    values = np.random.default_rng(2).normal(0, 1, (4, 23, 31)).astype(np.float32)
    before = values.copy()
    mode, fill = ("nearest", 0.0) if outside is None else ("constant", outside)
    expected = ndimage.shift(values, (0.0, *way), order=1, mode=mode, cval=fill)
    moved = _shifted(values, np.asarray(way), outside)
    assert moved.dtype == np.float32
    np.testing.assert_allclose(moved, expected, atol=2e-6)
    assert np.array_equal(values, before)


@pytest.mark.parametrize("size", [2, 4, 8])
def test_pooled_blocks_are_the_means_of_blocks(size):
    planes = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(_pool(planes, size), functional.avg_pool2d(planes, size))


def test_the_high_pass_leaves_what_the_mean_of_nine_does_not():
    planes = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(4))
    around = functional.pad(planes, (1, 1, 1, 1), mode="replicate")
    torch.testing.assert_close(_high_pass(planes), planes - functional.avg_pool2d(around, 3, stride=1))
