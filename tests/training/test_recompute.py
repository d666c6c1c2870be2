"""Recomputed activations: the plain network's gradients and statistics, in less memory."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, mirrored

from resnet_keras.models import (
    batch_norm,
    bottleneck_block,
    build_model,
    conv_bn,
    plain_block,
    residual_block,
)
from resnet_keras.training.recompute import cut, recomputed

IMAGES = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("float32")
LABELS = np.arange(4)


def both(name="cifar_resnet14", **options):
    """Return a network's plain and recomputed forward passes and the network, weights alike."""
    model = build_model(name, classifier_activation=None, **options)
    return (lambda x: model(x, training=True)), recomputed(model), model


def gradients(forward, model, images=IMAGES, labels=LABELS):
    with tf.GradientTape() as tape:
        logits = tf.cast(forward(images), tf.float32)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
    return tape.gradient(loss, [variable.value for variable in model.trainable_variables])


def descend(forward, model, **batch):
    for variable, gradient in zip(
        model.trainable_variables, gradients(forward, model, **batch), strict=True
    ):
        variable.assign_sub(0.01 * gradient)


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def assert_as_plain(forward, model, images):
    start, results = model.get_weights(), []
    for run in (lambda x: model(x, training=True), forward):
        model.set_weights(start)
        results.append([*gradients(run, model, images), *model.get_weights()])
    assert_same(results[1], results[0])


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_gradients_and_statistics_are_the_plain_networks(dtype, compiled):
    plain, saving, model = both(dtype=dtype)
    start, results = model.get_weights(), []
    for forward in (plain, saving):
        model.set_weights(start)
        step = tf.function(gradients) if compiled else gradients
        results.append([*step(forward, model), *model.get_weights()])
    assert not np.array_equal(model.get_layer("conv1_bn").moving_mean, np.zeros(16))
    assert_same(results[1], results[0])


def test_bottleneck_blocks_with_projections_and_strides():
    inputs = keras.Input((16, 16, 3))
    x = conv_bn(inputs, 8, 3, name="conv1")
    for index in range(5):
        x = bottleneck_block(x, 4, 1 + index % 2, shortcut="C", name=f"block{index}")
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    assert_as_plain(recomputed(model), model, IMAGES[:, :16, :16])


def test_steps_in_a_loop_in_the_graph():
    plain, saving, model = both()
    start = model.get_weights()
    for _ in range(3):
        descend(plain, model)
    expected = model.get_weights()

    @tf.function
    def steps(count):
        for _ in tf.range(count):
            descend(saving, model)

    model.set_weights(start)
    steps(tf.constant(3))
    for ours, theirs in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_replicas_each_on_their_share(cpus):
    strategy = mirrored(cpus[:2])
    with strategy.scope():
        plain, saving, model = both()
    start, results = model.get_weights(), []
    for forward in (plain, saving):
        model.set_weights(start)

        @tf.function
        def step(forward=forward):
            def replica():
                share = tf.distribute.get_replica_context().replica_id_in_sync_group
                images, labels = (tf.reshape(b, [2, 2, *b.shape[1:]])[share] for b in batch)
                return gradients(forward, model, images, labels)

            batch = tf.constant(IMAGES), tf.constant(LABELS)
            return [strategy.experimental_local_results(g) for g in strategy.run(replica)]

        statistics = [
            strategy.experimental_local_results(variable.value)
            for variable in model.non_trainable_variables
        ]
        results.append([part.numpy() for values in [*step(), *statistics] for part in values])
    assert_same(results[1], results[0])
    assert not np.array_equal(results[0][0], results[0][1]), "each has gradients of its own"


MEASURE = """
import resource
import tensorflow as tf
from resnet_keras.models import build_model
from resnet_keras.training.recompute import recomputed

model = build_model("cifar_resnet32", classifier_activation=None)
variables = [variable.value for variable in model.trainable_variables]

def compiled(forward):
    @tf.function(reduce_retracing=True)
    def step(images):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(forward(images))
        return [tf.reduce_sum(gradient) for gradient in tape.gradient(loss, variables)]

    step.get_concrete_function(tf.TensorSpec([None, 32, 32, 3]))(tf.zeros([1, 32, 32, 3]))
    return step

steps = compiled(recomputed(model)), compiled(lambda x: model(x, training=True))
peaks = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]
for step in steps:
    step(tf.zeros([256, 32, 32, 3]))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(*[(peak - peaks[0]) / 1024 for peak in peaks[1:]])
"""


@pytest.mark.slow
def test_memory_is_saved():
    """15 blocks keep at least 3.5 tensors each; a stage's hold 16, 8 or 4 MiB each at batch 256."""
    command = [sys.executable, "-c", MEASURE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    saving, plain = map(float, done.stdout.split())
    assert plain > 3.5 * 5 * (16 + 8 + 4)
    assert saving < plain * 2 / 3


def test_cuts_hold_least():
    """n like blocks of which d values are read: least is about 2 * sqrt(n * d) + d."""
    inside, outputs = [4] * 100, [1] * 100
    assert _peak(inside, outputs, cut(inside, outputs)) <= 2 * (100 * 4) ** 0.5
    # ResNet-1202 by stage alone would hold its first stage, by block all its blocks' outputs.
    inside = [4 * side for side in (16, 8, 4) for _ in range(200)]
    outputs = [side for side in (16, 8, 4) for _ in range(200)]
    least = _peak(inside, outputs, cut(inside, outputs))
    assert least * 7 < _peak(inside, outputs, [200, 400])
    assert least * 4 < _peak(inside, outputs, list(range(1, 600)))
    for every in range(1, 101):
        assert least <= _peak(inside, outputs, list(range(every, 600, every)))


def _peak(inside, outputs, cuts):
    """Return the most that is held: the boundaries so far and the inside of one segment."""
    bounds = [0, *cuts, len(inside)]
    held = [sum(outputs[c - 1] for c in cuts[:i]) for i in range(len(bounds) - 1)]
    return max(h + sum(inside[a:b]) for h, a, b in zip(held, bounds, bounds[1:], strict=False))


def test_cuts_lie_only_where_one_tensor_crosses():
    """Blocks inside the branch of a larger block, which another tensor passes by."""
    inputs = keras.Input((8, 8, 3))
    x = conv_bn(inputs, 4, 3, name="conv1")
    y = residual_block(x, (4, 4), name="inner")
    x = keras.layers.Concatenate(name="around")([x, plain_block(y, 4, name="inner2")])
    for index in range(4):
        x = residual_block(x, (8, 8), name=f"block{index}")
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, x)
    assert_as_plain(recomputed(model), model, IMAGES[:, :8, :8])


def test_a_network_without_blocks_is_refused():
    with pytest.raises(ValueError, match=r"^vgg_a has no residual or plain blocks .*\.$"):
        recomputed(build_model("vgg_a", include_top=False))


@pytest.mark.parametrize(("kind", "options"), [("Dropout", [0.5]), ("BatchNormalization", [])])
def test_a_layer_that_would_differ_in_the_second_pass_is_refused(kind, options):
    inputs = keras.Input((8, 8, 3))
    x = getattr(keras.layers, kind)(*options, name="extra")(inputs)
    for index in range(4):
        x = residual_block(x, (3, 3), name=f"block{index}")
    model = keras.Model(inputs, batch_norm(x, name="last"))
    with pytest.raises(ValueError, match=rf"^extra \({kind}\) draws random numbers or keeps"):
        recomputed(model)
