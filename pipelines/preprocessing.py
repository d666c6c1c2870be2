"""One image through a recipe: for training, for testing and for serving."""

import numpy as np
import tensorflow as tf

from pipelines import decoding, transforms
from pipelines.recipes import Recipe
from pipelines.statistics import Statistics


def mean_and_std(recipe: Recipe, statistics: Statistics) -> tuple[np.ndarray, np.ndarray]:
    """Return what is subtracted ([S, S, 3] or [3]) and divided by ([3]), float32, in 0..255."""
    pixel_mean, size = statistics.pixel_mean, recipe.image_size
    if (
        recipe.subtract == "pixel_mean"
        and pixel_mean is not None
        and pixel_mean.shape == (size, size, 3)
    ):
        mean = pixel_mean
    else:
        mean = np.asarray(recipe.channel_mean or statistics.channel_mean, np.float32)
    std = recipe.channel_std or statistics.channel_std if recipe.divide_by_std else (1.0, 1.0, 1.0)
    return mean.astype(np.float32), np.asarray(std, np.float32)


def normalise(images: tf.Tensor, recipe: Recipe, statistics: Statistics) -> tf.Tensor:
    """Turn pixels into network input: subtract the mean and, if the recipe says so, divide.

    images: any number type [..., H, W, 3], RGB, 0..255. Returns float32 of the same shape.
    A per-pixel mean is subtracted where H and W are the recipe's image size, else its average
    over the pixels, so that views of other sizes see the same colours.
    """
    mean, std = mean_and_std(recipe, statistics)
    if mean.ndim == 3 and tuple(images.shape[-3:-1]) != mean.shape[:2]:
        mean = mean.mean(axis=(0, 1))
    centred = tf.cast(images, tf.float32) - mean
    return centred / std if recipe.divide_by_std else centred


def single_view(image: tf.Tensor, recipe: Recipe) -> tf.Tensor:
    """Resize a decoded image uint8 [H, W, 3] and cut its centre; float32 [S, S, 3], 0..255."""
    size = recipe.image_size
    if tuple(image.shape[:2]) == (recipe.test_shorter_side,) * 2 == (size, size):
        return tf.cast(image, tf.float32)
    resized = transforms.resize_shorter_side(image, recipe.test_shorter_side)
    return transforms.central_crop(resized, size)


def preprocess_encoded(encoded: tf.Tensor, recipe: Recipe, statistics: Statistics) -> tf.Tensor:
    """Turn one encoded image, a string scalar, into network input as the recipe's test does.

    Decodes with the accurate DCT. Returns float32 [image_size, image_size, 3].
    """
    image = decoding.decode(encoded, accurate=True)
    return normalise(single_view(image, recipe), recipe, statistics)


def preprocess_decoded(image: tf.Tensor, recipe: Recipe, statistics: Statistics) -> tf.Tensor:
    """Turn one decoded image, uint8 [H, W, 3], into network input as the recipe's test does."""
    return normalise(single_view(image, recipe), recipe, statistics)


def augment(image: tf.Tensor, recipe: Recipe, statistics: Statistics, seed: tf.Tensor) -> tf.Tensor:
    """Turn one image into network input as the recipe's training does.

    image: encoded (string scalar) or decoded (uint8 [H, W, 3]). seed: int64 [2].
    Returns float32 [image_size, image_size, 3].
    """
    if recipe.crop == "padded":
        return _augment_padded(image, recipe, statistics, seed)
    pixels = _random_window(image, recipe, seed)
    if recipe.flip:
        pixels = transforms.random_flip(pixels, seed)
    mean, std = mean_and_std(recipe, statistics)
    if recipe.colour_std:
        # The shift is taken from the mean, which spares a pass over the pixels.
        mean = mean - transforms.colour_shift(
            recipe.colour_std, statistics.eigenvalues, statistics.eigenvectors, seed
        )
    centred = pixels - mean
    return centred / std if recipe.divide_by_std else centred


def _augment_padded(
    image: tf.Tensor, recipe: Recipe, statistics: Statistics, seed: tf.Tensor
) -> tf.Tensor:
    if image.dtype == tf.string:
        image = decoding.decode(image, accurate=False)
    pixels = normalise(single_view(image, recipe), recipe, statistics)
    black = 0.0
    if recipe.padding_value == "black":
        mean, std = mean_and_std(recipe, statistics)
        black = -mean / std
    pixels = transforms.random_padded_crop(pixels, recipe.padding, seed, black)
    return transforms.random_flip(pixels, seed) if recipe.flip else pixels


def _random_window(image: tf.Tensor, recipe: Recipe, seed: tf.Tensor) -> tf.Tensor:
    """Cut the random window of a "resized" recipe; float32 [S, S, 3], 0..255."""
    size = recipe.image_size

    def draw(shape: tf.Tensor) -> tf.Tensor:
        return transforms.scale_jitter_window(shape, recipe.shorter_sides, size, seed)

    def from_pixels(pixels: tf.Tensor) -> tf.Tensor:
        return transforms.resample_window(pixels, draw(tf.shape(pixels)[:2]), size)

    if image.dtype != tf.string:
        return from_pixels(image)

    def from_jpeg() -> tf.Tensor:
        window = draw(decoding.jpeg_shape(image))
        return tf.cond(
            transforms.is_whole(window[2]),
            lambda: tf.image.resize(decoding.decode_jpeg_window(image, window), [size, size]),
            lambda: transforms.resample_window(
                decoding.decode(image, accurate=False), window, size
            ),
        )

    pixels = tf.cond(
        decoding.is_jpeg(image),
        from_jpeg,
        lambda: from_pixels(decoding.decode(image, accurate=False)),
    )
    return tf.ensure_shape(pixels, [size, size, 3])
