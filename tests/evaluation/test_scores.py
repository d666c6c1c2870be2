"""Softmax averaged over views, whatever the batches, the replicas and the images' sizes."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored
from PIL import Image

import pipelines
from pipelines import Statistics, recipe, views
from pipelines.sources import Source
from pipelines.splits import ArraySplit
from resnet_keras.errors import InputError
from resnet_keras.evaluate_job import view_batches
from resnet_keras.evaluation import answers, scores
from resnet_keras.evaluation.convolutional import fully_convolutional
from resnet_keras.models import build_model, convolution, dense, max_pooling

RANDOM = np.random.default_rng(0)
MEAN = (100.0, 110.0, 120.0)


def _source(images: int, size: int = 32) -> Source:
    # Blocks of 8x8 pixels: crops of such an image differ for the network, crops of noise do not.
    blocks = RANDOM.integers(0, 256, (images, size // 8, size // 8, 3), np.uint8)
    pixels = blocks.repeat(8, axis=1).repeat(8, axis=2)
    split = ArraySplit(pixels, RANDOM.integers(0, 7, images).astype(np.int32))
    return Source("noise", tuple("abcdefg"), {"test": split}, Statistics(MEAN, (1.0, 1.0, 1.0)))


def _network(classes: int = 7):
    """Return a network that is not sure of anything."""
    model = build_model(
        "cifar_resnet8", classes=classes, input_shape=(32, 32, 3), classifier_activation=None
    )
    kernel = model.get_layer("predictions").kernel
    kernel.assign(kernel * 1e-2)
    return model


def _small_vgg(classes: int = 2):
    """Return a network with dense layers, which takes no image smaller than its own."""
    inputs = keras.Input((32, 32, 3))
    x = max_pooling(convolution(inputs, 4, 3, activation="relu", name="conv"), 8, name="pool")
    x = dense(keras.layers.Flatten()(x), 6, activation="relu", name="fc")
    return keras.Model(inputs, dense(x, classes, name="predictions"))


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(np.asarray(logits, np.float64))
    return exponents / exponents.sum(axis=-1, keepdims=True)


def _score(model, source, chosen, view, *, batch_size=64, strategy=None, whole=False, log=print):
    strategy = strategy or tf.distribute.get_strategy()
    logits = fully_convolutional(model) if whole else lambda images: model(images, training=False)
    score = scores.make_score(scores.log_softmax_of(logits), strategy, len(source.class_names))
    batches, count = view_batches(
        source, chosen, strategy, split="test", view=view, batch_size=batch_size,
        max_bad_fraction=0.5, on_bad=log,
    )  # fmt: skip
    return score(batches, count, source.sizes["test"])


def test_ten_crops_are_averaged_as_numpy_does_with_crops_cut_by_hand():
    source, model = _source(6, size=40), _network()
    # Not resized, so that pixels keep their places.
    chosen = dataclasses.replace(recipe("imagenet", image_size=32), test_shorter_side=40)
    found = _score(model, source, chosen, views.ten_crop)
    images = source.splits["test"].images.astype(np.float32) - np.float32(MEAN)
    corners = [(0, 0), (0, 8), (8, 0), (8, 8), (4, 4)]
    crops = [images[:, y : y + 32, x : x + 32] for y, x in corners]
    crops += [crop[:, :, ::-1] for crop in crops]
    expected = np.mean([_softmax(model(crop, training=False)) for crop in crops], axis=0)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    np.testing.assert_array_equal(found.labels, source.splits["test"].labels)
    # It is the mean of the probabilities, not of the logits.
    logits = np.mean([model(crop, training=False) for crop in crops], axis=0)
    assert np.abs(found.probabilities - _softmax(logits)).max() > 1e-4


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Give a folder of pictures of many sizes, one of them unreadable."""
    place = tmp_path_factory.mktemp("pictures")
    for label, name in enumerate(("dark", "light")):
        for split, count in (("train", 1), ("val", 4)):
            (place / split / name).mkdir(parents=True)
            for index in range(count):
                shape = (33 + 9 * index, 60 - 7 * index - 3 * label, 3)
                pixels = RANDOM.integers(128 * label, 128 * label + 128, shape, np.uint8)
                Image.fromarray(pixels).save(place / split / name / f"{index}.png")
    (place / "val/light/2.png").write_bytes(b"no image")
    return place


@pytest.mark.parametrize(
    ("view", "network", "runs"),
    [
        (None, _network, [(1, 1), (7, 2), (64, 3)]),
        (views.ten_crop, _network, [(64, 1), (7, 3)]),
        (views.whole_image(40), _small_vgg, [(64, 1), (1, 3)]),
    ],
    ids=["center", "ten_crop", "whole"],
)
def test_every_image_counts_once_at_any_batch_size_and_replica_count(
    cpus, pictures, view, network, runs
):
    """The pictures differ in size, and so do whole ones; one cannot be read."""
    folder = pipelines.open_source("folder", data_dir=pictures)
    chosen = recipe("vgg", image_size=32)
    weights, expected = network(2).get_weights(), None
    for batch_size, replicas in runs:
        strategy = mirrored(cpus[:replicas])
        with strategy.scope():
            model = network(2)
            model.set_weights(weights)
        told: list[str] = []
        found = _score(
            model, folder, chosen, view or scores.single_view, batch_size=batch_size,
            strategy=strategy, whole=view is not None, log=told.append,
        )  # fmt: skip
        assert [name.rsplit("val/")[1] for name in told] == ["light/2.png"]
        assert found.readable.tolist() == [True] * 6 + [False, True]
        assert found.labels[found.readable].tolist() == [0, 0, 0, 0, 1, 1, 1]
        assert found.probabilities.dtype == np.float32
        sums = found.probabilities[found.readable].sum(axis=1)
        np.testing.assert_allclose(sums, 1, rtol=1e-5)
        expected = expected or found
        np.testing.assert_allclose(
            found.probabilities[found.readable],
            expected.probabilities[expected.readable],
            atol=1e-6,
        )


def test_whole_images_are_seen_at_their_own_size():
    """By hand: 40x40 images, not resized, with their mirror images."""
    source, model = _source(3, size=40), _network()
    found = _score(model, source, recipe("imagenet", image_size=32), views.whole_image(40),
                   whole=True)  # fmt: skip
    free = build_model(
        "cifar_resnet8", classes=7, input_shape=(None, None, 3), classifier_activation=None
    )
    free.set_weights(model.get_weights())
    images = source.splits["test"].images.astype(np.float32) - np.float32(MEAN)
    pair = [_softmax(free(x, training=False)) for x in (images, images[:, :, ::-1])]
    np.testing.assert_allclose(found.probabilities, np.mean(pair, axis=0), atol=1e-5)


def test_the_mean_of_networks_counts_what_all_could_read():
    first = scores.Scores(np.log(np.float32([[0.9, 0.1], [0.2, 0.8]])), np.int32([0, 1]),
                          np.array([True, True]))  # fmt: skip
    other = scores.Scores(np.log(np.float32([[0.5, 0.5], [1.0, 1.0]])), np.int32([0, 0]),
                          np.array([True, False]))  # fmt: skip
    found = scores.mean([first, other, first])
    np.testing.assert_allclose(found.probabilities[0], [2.3 / 3, 0.7 / 3], rtol=1e-6)
    assert found.labels.tolist() == [0, 1]
    assert found.readable.tolist() == [True, False]
    # What the first could not read has no label of its own.
    found = scores.mean([other, first])
    assert (found.labels[0], found.readable.tolist()) == (0, [True, False])
    shifted = first._replace(labels=np.int32([1, 0]))
    with pytest.raises(ValueError, match="different images"):
        scores.mean([first, shifted])


def test_data_that_end_early_are_refused():
    """As where a file of the data was copied in part: what came must not pass for all of it."""
    batches, count = view_batches(
        _source(8), recipe("cifar"), tf.distribute.get_strategy(), split="test", batch_size=4,
        max_bad_fraction=0, on_bad=print,
    )  # fmt: skip
    predict = scores.log_softmax_of(lambda x: tf.zeros([tf.shape(x)[0], 7]))
    score = scores.make_score(predict, tf.distribute.get_strategy(), 7)
    assert count == 2
    with pytest.raises(InputError, match="ended after 2 of 3 batches"):
        score(batches, 3, 9)


def test_answers_keep_their_ranks_where_probabilities_vanish():
    """exp(-500) is 0 in float32: all but the best would tie."""
    logits = tf.constant([[0.0, 1000.0, 500.0, 400.0, 300.0, 200.0, 100.0]] * 7)
    found = scores.log_softmax_of(tf.identity)(logits).numpy()
    assert answers.ranks(found, np.arange(7)).tolist() == [6, 0, 1, 2, 3, 4, 5]
    both = scores.mean([scores.Scores(found, np.arange(7), np.ones(7, bool))] * 2)
    np.testing.assert_allclose(both.log_probabilities, found, rtol=1e-6)


def test_the_passes_of_each_view():
    """150 crops in three passes (VGG, Sec. 3.2), five scales (Sec. 3.4), and no mirror images
    where training had none."""
    image = tf.zeros([256, 300, 3])
    vgg = recipe("vgg")
    assert vgg.crop_scales == vgg.test_scales == (224, 256, 288)
    assert recipe("vgg_384").crop_scales == recipe("vgg_384").test_scales == (352, 384, 416)
    assert recipe("vgg_jitter").crop_scales == recipe("vgg_jitter").test_scales == (256, 384, 512)
    passes = scores.view_functions("multi_crop", vgg, vgg.crop_scales)
    assert [view(image, vgg).shape[0] for view in passes] == [50, 50, 50]
    imagenet = recipe("imagenet")
    passes = scores.view_functions("multi_scale", imagenet, imagenet.test_scales)
    sides = [tuple(view(image, imagenet).shape[:2]) for view in passes]
    assert sides == [(2, 224), (2, 256), (2, 384), (2, 480), (2, 640)]
    assert recipe("imagenet", image_size=112).test_scales == (112, 128, 192, 240, 320)
    (dense,) = scores.view_functions("dense", recipe("digits"), ())
    assert dense(tf.zeros([32, 32, 3]), recipe("digits")).shape == (1, 32, 32, 3)
