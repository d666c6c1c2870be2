"""Several views of one test image, whose scores are averaged.

A view function takes a decoded image [H, W, 3] and the recipe, and returns float32
[views, h, w, 3]: `test_batches(..., view=ten_crop)`. The mean is subtracted afterwards, or before
by recipes that pad. Mirror images are left out by recipes that train without them (`flip`).
"""

import tensorflow as tf

from pipelines.preprocessing import View, resize_for_test
from pipelines.recipes import Recipe


def and_flips(views: tf.Tensor, recipe: Recipe) -> tf.Tensor:
    """Append the mirror image of each view: [V, h, w, 3] to [2 V, h, w, 3]."""
    return tf.concat([views, tf.reverse(views, [2])], axis=0) if recipe.flip else views


def crops(image: tf.Tensor, size: int, corners: tf.Tensor) -> tf.Tensor:
    """Cut size x size windows at corners int32 [V, 2] (y, x); [V, size, size, 3]."""
    windows = [
        tf.slice(image, [corner[0], corner[1], 0], [size, size, 3])
        for corner in tf.unstack(corners)
    ]
    return tf.ensure_shape(tf.stack(windows), [len(windows), size, size, 3])


def ten_crop(image: tf.Tensor, recipe: Recipe) -> tf.Tensor:
    """Cut the four corners and the centre, and mirror them (Krizhevsky et al. 2012, Sec. 4.1).

    The corners are those of the whole image at the recipe's shorter side; Krizhevsky's images were
    square, and the ResNet paper does not say whether it cuts out a square before. Recipes that
    crop a padded image in training cut here from the image padded with 0: the corners and centre
    of 40x40 for CIFAR. Returns float32 [10, S, S, 3]: top left, top right,
    bottom left, bottom right, centre, then their mirror images.
    """
    image = resize_for_test(image, recipe)
    size = recipe.image_size
    if recipe.crop == "padded":
        border = [[recipe.padding] * 2, [recipe.padding] * 2, [0, 0]]
        image = tf.pad(image, border)
    bottom, right = tf.unstack(tf.shape(image)[:2] - size)
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    return and_flips(crops(image, size, tf.convert_to_tensor(corners)), recipe)


def whole_image(side: int) -> View:
    """Return the view of the whole image at a shorter side, and its mirror image.

    For fully convolutional testing at each of the recipe's `test_scales`: float32 [2, h, w, 3].
    Where sizes differ from image to image, batches hold one image.
    """

    def view(image: tf.Tensor, recipe: Recipe) -> tf.Tensor:
        return and_flips(resize_for_test(image, recipe, side)[None], recipe)

    return view


def crop_grid(side: int, steps: int = 5) -> View:
    """Return VGG's grid of crops at a shorter side, with their mirror images.

    steps x steps regularly spaced windows and their flips: 50 a scale, 150 over three scales
    (Simonyan and Zisserman 2014, Sec. 3.2). float32 [2 * steps^2, S, S, 3], row by row.
    """

    def view(image: tf.Tensor, recipe: Recipe) -> tf.Tensor:
        image = resize_for_test(image, recipe, side)
        room = tf.cast(tf.shape(image)[:2] - recipe.image_size, tf.float32)
        stops = tf.linspace(0.0, 1.0, steps)
        rows, columns = tf.meshgrid(stops * room[0], stops * room[1], indexing="ij")
        corners = tf.stack([tf.reshape(rows, [-1]), tf.reshape(columns, [-1])], axis=1)
        corners = tf.ensure_shape(tf.cast(tf.round(corners), tf.int32), [steps**2, 2])
        return and_flips(crops(image, recipe.image_size, corners), recipe)

    return view
