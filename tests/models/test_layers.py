"""Batch normalisation through the fused kernel, against the stock layer and NumPy."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from resnet_keras.models import FusedBatchNormalization
from resnet_keras.models.layers import hold_statistics

SHAPES = [(8, 5), (6, 7, 5), (4, 6, 3, 5), (2, 3, 4, 3, 5)]


def pair(shape, **options):
    """Return a fused and a stock layer with the same random weights, and their input."""
    options = {"momentum": 0.9, "epsilon": 1e-5, **options}
    fused, stock = FusedBatchNormalization(**options), keras.layers.BatchNormalization(**options)
    rng = np.random.default_rng(0)
    for layer in (fused, stock):
        layer.build(shape)
    weights = [rng.uniform(0.5, 2.0, w.shape).astype("float32") for w in stock.weights]
    fused.set_weights(weights)
    stock.set_weights(weights)
    return fused, stock, rng.normal(3.0, 2.0, shape).astype("float32")


def gradients(layer, x):
    x = tf.constant(x)
    upstream = tf.constant(np.random.default_rng(1).normal(size=x.shape), "float32")
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
    return y, tape.gradient(y, [x, *layer.trainable_variables], output_gradients=upstream)


@pytest.mark.parametrize("shape", SHAPES)
def test_inference_equals_the_stock_layer(shape):
    fused, stock, x = pair(shape)
    np.testing.assert_allclose(fused(x), stock(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_training_output_and_gradients_equal_the_stock_layer(shape):
    fused, stock, x = pair(shape)
    (y, ours), (expected, theirs) = gradients(fused, x), gradients(stock, x)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_moving_statistics_average_the_unbiased_variance(shape):
    fused, _, x = pair(shape)
    _, _, mean, variance = fused.get_weights()
    fused(x, training=True)
    columns = x.reshape(-1, shape[-1])
    expected = 0.9 * mean + 0.1 * columns.mean(0), 0.9 * variance + 0.1 * columns.var(0, ddof=1)
    np.testing.assert_allclose(fused.moving_mean, expected[0], rtol=1e-5)
    np.testing.assert_allclose(fused.moving_variance, expected[1], rtol=1e-5)


def test_a_frozen_layer_infers_and_keeps_its_statistics():
    fused, _, x = pair((4, 6, 3, 5))
    expected, before = fused(x, training=False), fused.get_weights()
    fused.trainable = False
    np.testing.assert_array_equal(fused(x, training=True), expected)
    for old, new in zip(before, fused.weights, strict=True):
        np.testing.assert_array_equal(old, new)


def test_held_statistics_stay_while_the_batch_normalises():
    fused, _, x = pair((4, 6, 3, 5))
    before, by_statistics = fused.get_weights(), fused(x, training=False)
    with hold_statistics():
        held = fused(x, training=True)
        for old, new in zip(before, fused.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(held, fused(x, training=True))
    assert not np.allclose(held, by_statistics, atol=0.1)
    assert not np.array_equal(fused.moving_mean, before[2]), "updated again after the hold"


def test_statistics_are_held_in_their_own_thread_only():
    fused, _, x = pair((8, 5))
    before = fused.get_weights()
    with hold_statistics():
        thread = threading.Thread(target=lambda: fused(x, training=True))
        thread.start()
        thread.join()
    assert not np.array_equal(fused.moving_mean, before[2])


def test_statistics_that_cannot_be_held_are_refused():
    fused, _, x = pair((4, 5, 6, 3), axis=1)
    with hold_statistics(), pytest.raises(ValueError, match="cannot be held: that takes"):
        fused(x, training=True)


@pytest.mark.parametrize(
    ("policy", "digits"), [("mixed_bfloat16", 2**-7), ("mixed_float16", 2**-9)]
)
def test_half_precision_activations_with_float32_statistics(policy, digits):
    fused, stock, x = pair((4, 6, 3, 5))
    half = FusedBatchNormalization(momentum=0.9, epsilon=1e-5, dtype=policy)
    half.build(x.shape)
    half.set_weights(stock.get_weights())
    y = half(x, training=True)
    assert y.dtype == policy.removeprefix("mixed_")
    assert {w.dtype for w in half.weights} == {"float32"}
    np.testing.assert_allclose(
        tf.cast(y, "float32"), fused(x, training=True), rtol=2 * digits, atol=8 * digits
    )
    np.testing.assert_allclose(half.moving_mean, fused.moving_mean, rtol=1e-2)


@pytest.mark.parametrize("options", [{"scale": False}, {"center": False}])
def test_without_scale_or_offset(options):
    fused, stock, x = pair((4, 6, 3, 5), **options)
    for training in (False, True):
        expected = stock(x, training=training)
        np.testing.assert_allclose(fused(x, training=training), expected, rtol=1e-4, atol=1e-5)


def kernels(layer, x, **call):
    """Return the types of the operations a call traces."""
    graph = tf.function(lambda x: layer(x, training=True, **call)).get_concrete_function(x).graph
    return {operation.type for operation in graph.get_operations()}


def test_the_stock_implementation_serves_where_the_kernel_cannot():
    fused, stock, x = pair((4, 5, 6, 3), axis=1)
    assert "FusedBatchNormV3" not in kernels(fused, x)
    np.testing.assert_allclose(fused(x, training=True), stock(x, training=True), rtol=1e-5)

    fused, stock, x = pair((6, 7, 5))
    assert "FusedBatchNormV3" in kernels(fused, x)
    mask = np.arange(7)[None] < np.arange(1, 7)[:, None]
    assert "FusedBatchNormV3" not in kernels(fused, x, mask=tf.constant(mask))
    expected = stock(x, training=True, mask=tf.constant(mask))
    np.testing.assert_allclose(fused(x, training=True, mask=tf.constant(mask)), expected, rtol=1e-5)

    for options in ({"renorm": True}, {"synchronized": True}, {"dtype": "float64"}):
        fused, _, x = pair((4, 6, 3, 5), **options)
        assert "FusedBatchNormV3" not in kernels(fused, x.astype(fused.compute_dtype))


def test_weights_and_configuration_interchange_with_the_stock_layer():
    fused, stock, x = pair((4, 6, 3, 5), momentum=0.8)
    assert fused.get_config().keys() == stock.get_config().keys()
    copy = keras.layers.BatchNormalization.from_config(fused.get_config())
    copy.build(x.shape)
    copy.set_weights(fused.get_weights())
    assert (copy.momentum, copy.name) == (0.8, fused.name)
    np.testing.assert_allclose(copy(x), stock(x), rtol=1e-5, atol=1e-5)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(fused))
    assert type(again) is FusedBatchNormalization


def test_training_in_a_loop_on_the_device_updates_at_each_turn():
    fused, _, x = pair((8, 5))
    looped, _, _ = pair((8, 5))

    @tf.function
    def three_steps(x):
        for _ in tf.range(3):  # becomes a tf.while_loop
            looped(x, training=True)

    three_steps(tf.constant(x))
    for _ in range(3):
        fused(x, training=True)
    for a, b in zip(looped.weights, fused.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_replicas_normalise_their_own_share_of_the_batch(cpus):
    strategy = tf.distribute.MirroredStrategy([device.name for device in cpus[:2]])
    with strategy.scope():
        mirrored, _, x = pair((8, 3, 3, 5))
    shares = [x[:4], x[4:]]

    @tf.function
    def step():
        def one_replica():
            share = tf.distribute.get_replica_context().replica_id_in_sync_group
            return mirrored(tf.stack(shares)[share], training=True)

        return strategy.run(one_replica)

    outputs = strategy.experimental_local_results(step())
    means = strategy.experimental_local_results(mirrored.moving_mean.value)
    for share, y, mean in zip(shares, outputs, means, strict=True):
        alone, _, _ = pair((8, 3, 3, 5))
        np.testing.assert_allclose(y, alone(share, training=True), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(mean, alone.moving_mean, rtol=1e-5)


def test_export_as_saved_model(tmp_path):
    fused, stock, x = pair((4, 6, 3, 5))
    inputs = keras.Input((6, 3, 5))
    model = keras.Model(inputs, fused(inputs))
    archive = keras.export.ExportArchive()
    signature = [tf.TensorSpec((None, 6, 3, 5), "float32")]
    archive.add_endpoint("serve", lambda x: model(x, training=False), signature)
    archive.write_out(tmp_path / "export", verbose=False)
    served = tf.saved_model.load(tmp_path / "export")
    np.testing.assert_allclose(served.serve(x), stock(x), rtol=1e-5, atol=1e-5)
