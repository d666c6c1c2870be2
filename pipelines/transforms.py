"""Image transforms: pure graph functions with an explicit seed.

An image is [H, W, 3], RGB, 0..255. `seed` is an int64 [2] of the one image; every transform draws
from a stream of its own, so all transforms of an image take the same seed and stay independent.
"""

import math
from collections.abc import Callable

import tensorflow as tf

# Streams of random numbers; `image_seed` leaves room for 16.
STREAMS = 16
_WINDOW, _FLIP, _COLOUR, _PAD = 1, 2, 3, 4


def image_seed(seed: int, position: tf.Tensor) -> tf.Tensor:
    """Return the seed, int64 [2], of the image at a position (int64 scalar) of the stream."""
    return tf.stack([tf.constant(seed * STREAMS, tf.int64), tf.cast(position, tf.int64)])


def _uniform(count: int, seed: tf.Tensor, stream: int) -> tf.Tensor:
    return tf.random.stateless_uniform([count], seed + tf.constant([stream, 0], tf.int64))


def integer_between(low: int, high: tf.Tensor | int, uniform: tf.Tensor) -> tf.Tensor:
    """Map uniform numbers in [0, 1) to integers in [low, high], both inclusive; int32."""
    span = tf.cast(high - low + 1, tf.float32)
    return tf.minimum(low + tf.cast(uniform * span, tf.int32), high)


def scale_jitter_window(
    shape: tf.Tensor, sides: tuple[int, int], size: int, seed: tf.Tensor
) -> tf.Tensor:
    """Draw a random crop of a randomly scaled image, as a window of the source (Sec. 3.4).

    The shorter side of the image [H, W] = shape becomes an integer uniform on [sides]; of all
    size x size windows of that image one is drawn uniformly. Returns float32 [4]: y, x, height
    and width of the (square) window in source pixels. Windows of 100 pixels and more have
    whole-pixel corners, which changes the scale by at most 0.5 % and lets a decoder cut them out.
    """
    uniform = _uniform(3, seed, _WINDOW)
    shorter = tf.cast(integer_between(sides[0], sides[1], uniform[0]), tf.float32)
    source = tf.cast(shape, tf.float32)
    side = size * tf.reduce_min(source) / shorter
    whole = side >= 100.0
    side = tf.where(whole, tf.round(side), side)
    corner = tf.where(
        whole, _whole_corner(source - side, uniform[1:]), (source - side) * uniform[1:]
    )
    return tf.concat([corner, [side, side]], axis=0)


def inception_window(
    shape: tf.Tensor, areas: tuple[float, float], ratios: tuple[float, float], seed: tf.Tensor
) -> tf.Tensor:
    """Draw a part of an image as torchvision's RandomResizedCrop does.

    The area is uniform in `areas` (fractions of the image), the logarithm of width / height
    uniform in log `ratios`; the first of ten draws that fits is taken, else the central part
    nearest to the range. Returns float32 [4]: y, x, height and width in whole source pixels.
    """
    tries = 10
    uniform = _uniform(2 * tries + 2, seed, _WINDOW)
    height, width = tf.unstack(tf.cast(shape, tf.float32))
    area = height * width * (areas[0] + (areas[1] - areas[0]) * uniform[:tries])
    low, high = math.log(ratios[0]), math.log(ratios[1])
    ratio = tf.exp(low + (high - low) * uniform[tries : 2 * tries])
    heights, widths = tf.round(tf.sqrt(area / ratio)), tf.round(tf.sqrt(area * ratio))
    fits = (heights > 0) & (widths > 0) & (heights <= height) & (widths <= width)
    first = tf.argmax(fits)
    drawn = tf.stack([heights[first], widths[first]])
    # The whole image, cut to the range of aspect ratios.
    central = tf.maximum(
        tf.round(
            tf.stack([tf.minimum(height, width / ratios[0]), tf.minimum(width, height * ratios[1])])
        ),
        1.0,
    )
    room = tf.stack([height, width]) - drawn
    return tf.where(
        fits[first],
        tf.concat([_whole_corner(room, uniform[2 * tries :]), drawn], axis=0),
        tf.concat([tf.floor((tf.stack([height, width]) - central) / 2), central], axis=0),
    )


def _whole_corner(room: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """Draw whole-pixel corners in [0, room], both inclusive."""
    return tf.minimum(tf.floor(uniform * (room + 1.0)), room)


def is_whole(window: tf.Tensor) -> tf.Tensor:
    """Tell whether a window lies on whole source pixels."""
    return tf.reduce_all(tf.equal(window, tf.round(window)))


def resample_window(
    image: tf.Tensor, window: tf.Tensor, size: int, *, antialias: bool = False
) -> tf.Tensor:
    """Resample a real-valued window (y, x, height, width) of an image to float32 [size, size, 3].

    Bilinear with half-pixel centres.
    """
    scale = size / window[2:]
    resized = tf.raw_ops.ScaleAndTranslate(
        images=tf.cast(image, tf.float32)[None],
        size=[size, size],
        scale=scale,
        translation=-window[:2] * scale,
        kernel_type="triangle",
        antialias=antialias,
    )
    return tf.ensure_shape(resized[0], [size, size, 3])


def random_flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirror an image left to right with probability one half."""
    mirrored = _uniform(1, seed, _FLIP)[0] < 0.5
    return tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)


def colour_shift(
    std: float,
    eigenvalues: tuple[float, ...],
    eigenvectors: tuple[tuple[float, ...], ...],
    seed: tf.Tensor,
) -> tf.Tensor:
    """Draw AlexNet's colour shift, float32 [3], to be added to every pixel of one image.

    The sum of the eigenvectors, each times alpha * eigenvalue with alpha ~ N(0, std)
    (Krizhevsky et al. 2012, Sec. 4.1); the eigenvalues are those of pixels in 0..1.
    """
    alpha = tf.random.stateless_normal(
        [3], seed + tf.constant([_COLOUR, 0], tf.int64), stddev=std * 255.0
    )
    return tf.linalg.matvec(tf.constant(eigenvectors, tf.float32), alpha * eigenvalues)


def add_colour(image: tf.Tensor, colour: tf.Tensor) -> tf.Tensor:
    """Add a colour, float32 [3], to every pixel of float32 [..., H, W, 3]."""
    return _by_rows(image, colour, tf.add)


def scale_colour(image: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Multiply the channels of float32 [..., H, W, 3] by factors, float32 [3]."""
    return _by_rows(image, factors, tf.multiply)


def _by_rows(image: tf.Tensor, values: tf.Tensor, operation: Callable[..., tf.Tensor]) -> tf.Tensor:
    """Apply an operation to whole rows: broadcasting three numbers takes ten times longer."""
    shape = tf.shape(image)
    rows = tf.reshape(image, tf.concat([shape[:-2], [3 * shape[-2]]], axis=0))
    done = operation(rows, tf.tile(values, shape[-2:-1]))
    return tf.ensure_shape(tf.reshape(done, shape), image.shape)


def random_padded_crop(
    image: tf.Tensor, padding: int, seed: tf.Tensor, value: tf.Tensor | float = 0.0
) -> tf.Tensor:
    """Pad an image on each side and cut a random window of its own size (Sec. 4.2).

    image: float32 [H, W, 3]; each of the (2 * padding + 1)^2 offsets is equally likely.
    """
    height, width, _ = image.shape
    padded = tf.pad(image - value, [[padding, padding], [padding, padding], [0, 0]]) + value
    offset = integer_between(0, 2 * padding, _uniform(2, seed, _PAD))
    return tf.slice(padded, [offset[0], offset[1], 0], [height, width, 3])


def crop_positions(
    uniform: tf.Tensor, flips: tf.Tensor | None, *, size: int, padding: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draw the pad-crop-flip of a batch as rows and columns of the padded images.

    uniform: float32 [B, 2 or more] in [0, 1), for the vertical and horizontal offset.
    flips: bool [B]; None flips nothing.
    Returns int32 rows [B, size, 1] and columns [B, 1, size], in 0 .. size + 2 * padding - 1.
    """
    offset = integer_between(0, 2 * padding, uniform[:, :2])
    steps = tf.range(size)
    columns = tf.broadcast_to(steps, [tf.shape(uniform)[0], size])
    if flips is not None:
        columns = tf.where(flips[:, None], size - 1 - columns, columns)
    rows = offset[:, :1] + steps
    return rows[:, :, None], (offset[:, 1:] + columns)[:, None, :]


def resize_shorter_side(image: tf.Tensor, side: int, *, antialias: bool = True) -> tf.Tensor:
    """Resize a whole image so that its shorter side has `side` pixels; float32.

    Bilinear with half-pixel centres; the longer side is rounded to a whole pixel.
    """
    shape = tf.shape(image)[:2]
    scale = side / tf.reduce_min(shape)
    target = tf.cast(tf.round(tf.cast(shape, tf.float64) * scale), tf.int32)
    return tf.image.resize(image, target, antialias=antialias)


def central_crop(image: tf.Tensor, size: int) -> tf.Tensor:
    """Cut the size x size centre; an odd margin leaves the extra pixel below and right."""
    shape = tf.shape(image)
    cut = tf.slice(image, [(shape[0] - size) // 2, (shape[1] - size) // 2, 0], [size, size, 3])
    return tf.ensure_shape(cut, [size, size, 3])
