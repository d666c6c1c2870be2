"""Each transform by its range, eagerly and through tf.data."""

from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from pipelines import Statistics, decoding, preprocessing, recipe, transforms
from pipelines.statistics import IMAGENET_EIGENVALUES, IMAGENET_EIGENVECTORS

pytest_plugins = ["source_fixtures"]

NEUTRAL = Statistics((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def draws(function, count: int, seed: int = 7) -> np.ndarray:
    """Apply a function to the seeds of many images, in a graph."""
    data = tf.data.Dataset.range(count).map(
        lambda position: function(transforms.image_seed(seed, position)), num_parallel_calls=2
    )
    return next(data.batch(count).as_numpy_iterator())


def numbered(height: int, width: int) -> np.ndarray:
    """Return an image whose first two channels are the row and the column."""
    image = np.zeros((height, width, 3), np.float32)
    image[..., 0] = np.arange(height)[:, None]
    image[..., 1] = np.arange(width)
    image[..., 2] = 1
    return image


def test_all_81_cifar_offsets_and_both_flips_occur():
    uniform = tf.random.stateless_uniform([20_000, 3], [1, 2])
    rows, columns = transforms.crop_positions(uniform, uniform[:, 2] < 0.5, size=32, padding=4)
    assert (rows.shape, columns.shape) == ((20_000, 32, 1), (20_000, 1, 32))
    top, left, right = rows[:, 0, 0].numpy(), columns[:, 0, 0].numpy(), columns[:, 0, 31].numpy()
    offsets = Counter(zip(top, np.minimum(left, right), strict=True))
    assert set(offsets) == {(y, x) for y in range(9) for x in range(9)}
    # 247 of each expected, deviation 15.6.
    assert min(offsets.values()) > 170
    assert max(offsets.values()) < 330
    assert abs((left > right).mean() - 0.5) < 0.02
    assert set(np.abs(left - right)) == {31}


def test_padded_crop_of_one_image_reaches_all_offsets():
    image = numbered(32, 32)
    crops = draws(lambda seed: transforms.random_padded_crop(image, 4, seed)[16, 16], 4000)
    offsets = Counter((int(y) - 16, int(x) - 16) for y, x, _ in crops)
    assert set(offsets) == {(y, x) for y in range(-4, 5) for x in range(-4, 5)}


@pytest.mark.parametrize(
    ("shape", "sides", "size"),
    [((375, 500), (256, 480), 224), ((500, 333), (256, 256), 224), ((80, 64), (64, 96), 56)],
)
def test_the_shorter_side_is_uniform_and_all_windows_are_reached(shape, sides, size):
    windows = draws(
        lambda seed: transforms.scale_jitter_window(tf.constant(shape), sides, size, seed), 10_000
    )
    y, x, side, width = windows.T
    assert (side == width).all()
    # The window is inside the image.
    assert min(y.min(), x.min()) >= 0
    assert (y + side <= shape[0] + 1e-3).all()
    assert (x + side <= shape[1] + 1e-3).all()
    # Every integer side occurs, equally often; whole-pixel windows change it by < 0.5 %.
    shorter = size * min(shape) / side
    drawn = np.array([size * min(shape) / s for s in range(sides[0], sides[1] + 1)])
    exact = side < 100
    assert np.abs(shorter[exact] - np.round(shorter[exact])).max(initial=0) < 0.01
    assert set(np.round(drawn[drawn >= 100])) == set(side[~exact])
    quantiles = np.quantile(shorter, np.linspace(0, 1, 11))
    np.testing.assert_allclose(quantiles, np.linspace(*sides, 11), atol=5)
    # Offsets are uniform over the room that is left, and the corners are reached.
    for offset, length in ((y, shape[0]), (x, shape[1])):
        room = length - side
        part = (offset / np.maximum(room, 1))[room > 8]
        np.testing.assert_allclose(
            np.quantile(part, np.linspace(0, 1, 5)), np.linspace(0, 1, 5), atol=0.03
        )
        whole = ~exact & (room > 8)
        if whole.any():
            assert (offset[whole] == 0).any()
            assert (offset[whole] == room[whole]).any()


def test_flip_mirrors_half_of_the_images():
    image = numbered(5, 6)
    left = draws(lambda seed: transforms.random_flip(image, seed)[0, :, 1], 4000)
    assert {tuple(row) for row in left} == {(0, 1, 2, 3, 4, 5), (5, 4, 3, 2, 1, 0)}
    assert abs((left[:, 0] == 5).mean() - 0.5) < 0.03


def test_colour_shift_has_the_covariance_of_the_eigenvalues():
    shifts = draws(
        lambda seed: transforms.colour_shift(
            0.1, IMAGENET_EIGENVALUES, IMAGENET_EIGENVECTORS, seed
        ),
        10_000,
    )
    vectors = np.array(IMAGENET_EIGENVECTORS)
    expected = vectors @ np.diag((0.1 * 255 * np.array(IMAGENET_EIGENVALUES)) ** 2) @ vectors.T
    np.testing.assert_allclose(np.cov(shifts.T), expected, rtol=0.07)
    assert np.abs(shifts.mean(axis=0)).max() < 0.25


def test_the_transforms_of_one_image_are_independent():
    """One seed serves all transforms: flips must not go with offsets or shifts."""
    image = numbered(32, 32)

    def all_of(seed):
        window = transforms.scale_jitter_window(tf.constant([375, 500]), (256, 480), 224, seed)
        mirrored = transforms.random_flip(image, seed)[0, 0, 1] > 0
        shift = transforms.colour_shift(0.1, IMAGENET_EIGENVALUES, IMAGENET_EIGENVECTORS, seed)
        crop = transforms.random_padded_crop(image, 4, seed)[16, 16, :2]
        return tf.concat([window, [tf.cast(mirrored, tf.float32)], shift[:1], crop], axis=0)

    values = draws(all_of, 4000)
    # The window's side limits its corner, so only its own numbers depend on each other.
    correlation = np.corrcoef(values.T)
    correlation[:4, :4] = np.eye(4)
    assert np.abs(correlation - np.eye(len(correlation))).max() < 0.07


def test_resample_is_bilinear_with_half_pixel_centres():
    image = numbered(60, 90)
    out = transforms.resample_window(image, tf.constant([10.25, 20.5, 30.0, 45.0]), 15).numpy()
    centres = np.arange(15) + 0.5
    np.testing.assert_allclose(out[:, 0, 0], 10.25 + 2 * centres - 0.5, atol=1e-4)
    np.testing.assert_allclose(out[0, :, 1], 20.5 + 3 * centres - 0.5, atol=1e-4)


def test_shorter_side_and_centre():
    image = tf.constant(numbered(300, 451))
    resized = transforms.resize_shorter_side(image, 256)
    assert resized.shape == (256, 385, 3)
    crop = transforms.central_crop(tf.constant(numbered(256, 385)), 224).numpy()
    assert tuple(crop[0, 0, :2]) == (16, 80)
    assert tuple(crop[-1, -1, :2]) == (239, 303)


def test_normalise_by_pixel_mean_channel_mean_and_deviation(digits):
    images = digits.splits["test"].images[:3]
    cifar = preprocessing.normalise(images, recipe("cifar"), digits.statistics).numpy()
    np.testing.assert_allclose(cifar, images - digits.pixel_mean, atol=1e-4)
    lab = preprocessing.normalise(images, recipe("lab"), digits.statistics).numpy()
    mean = np.array([0.4914, 0.4822, 0.4465]) * 255
    std = np.array([0.2023, 0.1994, 0.2010]) * 255
    np.testing.assert_allclose(lab, (images - mean) / std, atol=1e-4)
    # Another size than the mean image's: its average is subtracted.
    wide = np.zeros((40, 50, 3), np.uint8)
    other = preprocessing.normalise(wide, recipe("cifar"), digits.statistics).numpy()
    np.testing.assert_allclose(
        other, np.broadcast_to(-np.array(digits.channel_mean), wide.shape), rtol=1e-5
    )


def test_lab_pads_black_pixels_and_cifar_pads_the_mean():
    white = np.full((32, 32, 3), 255, np.uint8)
    statistics = Statistics((100.0, 100.0, 100.0), (50.0, 50.0, 50.0))
    seeds = [transforms.image_seed(0, tf.constant(position)) for position in range(20)]
    lab = recipe("lab")
    for name, border in (
        ("cifar", [0.0] * 3),
        ("lab", -np.divide(lab.channel_mean, lab.channel_std)),
    ):
        values = {
            tuple(np.round(corner, 3))
            for seed in seeds
            for corner in preprocessing.augment(white, recipe(name), statistics, seed).numpy()[
                ::31, 16
            ]
        }
        assert tuple(np.round(np.float32(border), 3)) in values


def test_serving_equals_decode_resize_crop(imagenette):
    path = imagenette.splits["test"].paths[0]
    encoded = tf.io.read_file(path)
    chosen = recipe("imagenet", image_size=112)
    ours = tf.function(
        lambda data: preprocessing.preprocess_encoded(data, chosen, imagenette.statistics)
    )(encoded)
    image = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
    resized = tf.image.resize(image, [128, 128], antialias=True)[8:120, 8:120]
    np.testing.assert_allclose(ours, resized - np.float32(imagenette.channel_mean), atol=1e-3)


def test_recipes_scale_with_the_image_size():
    half = recipe("imagenet", image_size=112)
    assert (half.shorter_sides, half.test_shorter_side) == ((128, 240), 128)
    assert recipe("cifar", image_size=64).padding == 8
    assert recipe("imagenet").shorter_sides == (256, 480)


def test_png_named_jpeg_and_window_of_it():
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    encoded = tf.io.encode_png(image)
    np.testing.assert_array_equal(decoding.decode(encoded, accurate=True), image)
    out = preprocessing.augment(
        encoded, recipe("imagenet"), NEUTRAL, transforms.image_seed(0, tf.constant(1))
    )
    assert out.shape == (224, 224, 3)


def test_inception_windows_have_torchvisions_range():
    shape = (375, 500)
    windows = draws(
        lambda seed: transforms.inception_window(
            tf.constant(shape), (0.08, 1.0), (3 / 4, 4 / 3), seed
        ),
        4000,
    )
    y, x, height, width = windows.T
    assert (windows == np.round(windows)).all()
    assert min(y.min(), x.min()) >= 0
    assert (y + height <= 375).all()
    assert (x + width <= 500).all()
    area = height * width / (375 * 500)
    assert 0.075 < area.min() < 0.09
    assert area.max() > 0.95
    ratio = width / height
    assert 0.74 < ratio.min() < 0.77
    assert 1.31 < ratio.max() < 1.35
    # Logarithmic: as many wide as tall parts among the small ones, which always fit.
    assert abs((ratio[area < 0.4] > 1).mean() - 0.5) < 0.05


def test_inception_window_of_a_strip_is_its_centre():
    """No part with such a ratio has this area: torchvision falls back to the central part."""
    window = transforms.inception_window(
        tf.constant([100, 1000]), (0.9, 1.0), (3 / 4, 4 / 3), tf.constant([0, 0], tf.int64)
    )
    np.testing.assert_array_equal(window, [0, 433, 100, 133])


def test_overrides_of_a_recipe():
    chosen = recipe("imagenet", channel_mean=(0.1, 0.2, 0.3), channel_std=(0.5, 0.5, 0.25))
    pixels = np.full((4, 4, 3), 255, np.uint8)
    out = preprocessing.normalise(pixels, chosen, NEUTRAL).numpy()
    np.testing.assert_allclose(out[0, 0], [0.9 / 0.5, 0.8 / 0.5, 0.7 / 0.25], rtol=1e-5)
    for wrong in ({"channel_mean": (103.0, 116.0, 123.0)}, {"channel_std": (0.0, 0.2, 0.2)}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            recipe("imagenet", **wrong)


def test_antialias_option_changes_training_and_testing():
    image = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    seed = transforms.image_seed(0, tf.constant(0))
    encoded = tf.io.encode_jpeg(image, quality=95)

    def outputs(antialias):
        chosen = recipe("imagenet", image_size=56, antialias=antialias)
        train = preprocessing.augment(encoded, chosen, NEUTRAL, seed)
        test = preprocessing.preprocess_encoded(encoded, chosen, NEUTRAL)
        return np.std(train), np.std(test)

    (default_train, default_test), on, off = outputs(None), outputs(True), outputs(False)
    # Averaging many pixels of noise flattens it.
    assert on[0] < 0.5 * off[0]
    assert on[1] < 0.5 * off[1]
    assert (default_train, default_test) == (off[0], on[1])
