"""The geometry of the views, on images whose pixels tell their place."""

import numpy as np
import pytest
import tensorflow as tf

from pipelines import Statistics, recipe, test_batches, views
from pipelines.sources import Source
from pipelines.splits import ArraySplit

pytest_plugins = ["source_fixtures"]

# Sizes that need no resizing: pixels keep their numbers.
IMAGENET = recipe("imagenet")


def numbered(height: int, width: int) -> np.ndarray:
    image = np.zeros((height, width, 3), np.float32)
    image[..., 0] = np.arange(height)[:, None]
    image[..., 1] = np.arange(width)
    return image


def corners(crops: tf.Tensor) -> list[tuple[float, float]]:
    return [tuple(float(v) for v in crop[0, 0, :2]) for crop in crops]


def test_ten_crop_of_imagenet():
    crops = views.ten_crop(tf.constant(numbered(256, 340)), IMAGENET).numpy()
    assert crops.shape == (10, 224, 224, 3)
    expected = [(0, 0), (0, 116), (32, 0), (32, 116), (16, 58)]
    assert corners(crops[:5]) == expected
    # The mirror images: rows stay, columns run backwards from the window's last.
    assert corners(crops[5:]) == [(y, x + 223) for y, x in expected]
    for crop, mirrored in zip(crops[:5], crops[5:], strict=True):
        np.testing.assert_array_equal(crop[:, ::-1], mirrored)


def test_ten_crop_of_cifar_is_cut_from_the_padded_image():
    image = numbered(32, 32)
    image[..., 2] = 1  # marks what is not padding
    crops = views.ten_crop(tf.constant(image), recipe("cifar")).numpy()
    assert crops.shape == (10, 32, 32, 3)
    np.testing.assert_array_equal(crops[4], image)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    for crop, (y, x) in zip(crops, [(0, 0), (0, 8), (8, 0), (8, 8)], strict=False):
        np.testing.assert_array_equal(crop, padded[y : y + 32, x : x + 32])


@pytest.mark.parametrize("side", IMAGENET.test_scales)
def test_whole_image_keeps_the_aspect_ratio(side):
    pair = views.whole_image(side)(tf.constant(numbered(300, 401)), IMAGENET).numpy()
    assert pair.shape == (2, side, round(401 * side / 300), 3)
    np.testing.assert_array_equal(pair[0][:, ::-1], pair[1])


def test_vgg_grid_has_50_crops_a_scale():
    crops = views.crop_grid(256)(tf.constant(numbered(256, 384)), recipe("vgg")).numpy()
    assert crops.shape == (50, 224, 224, 3)
    assert corners(crops[:25]) == [
        (y, x) for y in (0, 8, 16, 24, 32) for x in (0, 40, 80, 120, 160)
    ]
    np.testing.assert_array_equal(crops[7][:, ::-1], crops[32])


def test_views_come_in_normalised_batches(imagenette):
    chosen = recipe("imagenet", image_size=56)
    batch = next(iter(test_batches(imagenette, chosen, batch_size=3, view=views.ten_crop)))
    assert batch["image"].shape == (3, 10, 56, 56, 3)
    single = next(iter(test_batches(imagenette, chosen, batch_size=3)))
    np.testing.assert_allclose(batch["image"][:, 4], single["image"], atol=1e-4)
    whole = next(iter(test_batches(imagenette, chosen, batch_size=1, view=views.whole_image(96))))
    assert whole["image"].shape == (1, 2, 96, 96, 3)


def test_padding_of_ten_crop_is_the_mean():
    """The border of CIFAR's 10-crop is 0 after normalisation, as in training."""
    images = np.full((2, 32, 32, 3), 200, np.uint8)
    split = ArraySplit(images, np.zeros(2, np.int32))
    known = Statistics((50.0, 60.0, 70.0), (1.0, 1.0, 1.0))
    source = Source("white", ("a", "b"), {"test": split}, known)
    batch = next(iter(test_batches(source, recipe("cifar"), batch_size=2, view=views.ten_crop)))
    np.testing.assert_allclose(batch["image"][0, 0, 0, 0], [0, 0, 0], atol=1e-4)
    np.testing.assert_allclose(batch["image"][0, 4, 0, 0], [150, 140, 130], atol=1e-4)
