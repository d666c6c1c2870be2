"""The fused window against decoding and resampling the whole image."""

import numpy as np
import pytest
import tensorflow as tf

from pipelines import Statistics, preprocessing, recipe, transforms

pytest_plugins = ["source_fixtures"]

NEUTRAL = Statistics((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def photographs(shared_data):
    paths = sorted((shared_data("imagenet_sample") / "train").glob("*/*.JPEG"))
    assert len(paths) == 100
    return [tf.io.read_file(str(path)) for path in paths]


def test_the_fused_window_equals_the_resampled_whole_image(photographs):
    chosen = recipe("imagenet")
    size = chosen.image_size

    @tf.function(input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([2], tf.int64)])
    def both(encoded, seed):
        fused = preprocessing.random_window(encoded, chosen, seed)
        image = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_FAST")
        window = transforms.scale_jitter_window(
            tf.shape(image)[:2], chosen.shorter_sides, size, seed
        )
        scale = size / window[2:]
        whole = tf.raw_ops.ScaleAndTranslate(
            images=tf.cast(image, tf.float32)[None],
            size=[size, size],
            scale=scale,
            translation=-window[:2] * scale,
            kernel_type="triangle",
            antialias=False,
        )[0]
        return tf.abs(fused - whole), window

    inner, fused_cut, square = [], 0, 0
    for number, encoded in enumerate(photographs):
        difference, window = both(encoded, tf.constant([3, number], tf.int64))
        inner.append(difference[2:-2, 2:-2].numpy())
        fused_cut += bool(transforms.is_whole(window))
        square += bool(window[2] == window[3])
        assert float(tf.reduce_mean(difference)) <= 0.5
    assert np.quantile(np.stack(inner), 0.999) <= 1.0
    # Nearly all photographs take the fused path; their windows are squares.
    assert fused_cut >= 90
    assert square == 100


def test_small_photographs_are_resampled_at_real_windows(photographs):
    """A photograph of 60 pixels gets windows of less than 100: nothing is rounded."""
    image = tf.cast(tf.image.resize(tf.io.decode_jpeg(photographs[0]), [60, 90]), tf.uint8)
    encoded = tf.io.encode_jpeg(image, quality=100)
    decoded = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_FAST")
    pixels = decoded.numpy().astype(np.float64)
    chosen = recipe("imagenet")
    for position in range(5):
        seed = transforms.image_seed(1, tf.constant(position))
        window = transforms.scale_jitter_window(
            tf.shape(decoded)[:2], chosen.shorter_sides, 224, seed
        )
        assert 60 * 224 / 480 - 0.01 <= float(window[2]) <= 60 * 224 / 256 + 0.01
        shorter = 224 * 60 / float(window[2])
        assert abs(shorter - round(shorter)) < 0.01
        ours = preprocessing.random_window(encoded, chosen, seed)
        # Of places near 90, float32 knows 1e-5 pixels, between which 255 levels may lie.
        expected = _bilinear(pixels, window.numpy().astype(np.float64), 224)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=255e-5)


def _bilinear(pixels: np.ndarray, window: np.ndarray, size: int) -> np.ndarray:
    """Resample a window (y, x, height, width) to ``size`` pixels a side: half-pixel centres."""
    for axis, (corner, side) in enumerate(zip(window[:2], window[2:], strict=True)):
        centres = corner + (np.arange(size) + 0.5) * (side / size) - 0.5
        before = np.floor(centres).astype(int)
        last = pixels.shape[axis] - 1
        first, second = (
            np.take(pixels, np.clip(before + n, 0, last), axis).swapaxes(0, axis) for n in (0, 1)
        )
        share = (centres - before)[:, None, None]
        pixels = ((1 - share) * first + share * second).swapaxes(0, axis)
    return pixels
