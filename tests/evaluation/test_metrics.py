import keras
import numpy as np
import pytest
import tensorflow as tf

from resnet_keras.evaluation.metrics import make_evaluate


def _identity(classes: int) -> keras.Model:
    """Return a network whose logits are its input."""
    x = keras.Input((classes,))
    return keras.Model(x, keras.layers.Activation("linear")(x))


def _batches(logits, labels, size) -> tf.data.Dataset:
    """Return padded and masked batches; what pads them is wrong on purpose."""
    count = -(-len(labels) // size) * size
    padding = count - len(labels)
    image = np.concatenate([logits, np.full((padding, logits.shape[1]), 9.0, np.float32)])
    label = np.concatenate([labels, np.zeros(padding, np.int32)]).astype(np.int32)
    weight = np.concatenate([np.ones(len(labels)), np.zeros(padding)]).astype(np.float32)
    records = {"image": image.astype(np.float32), "label": label, "weight": weight}
    return tf.data.Dataset.from_tensor_slices(records).batch(size)


def _strategy(cpus, replicas):
    return tf.distribute.MirroredStrategy([cpu.name for cpu in cpus[:replicas]])


@pytest.mark.parametrize(("size", "replicas"), [(1, 1), (6, 1), (64, 1), (6, 2), (6, 3)])
def test_every_image_counts_once_at_any_batch_size_and_replica_count(cpus, size, replicas):
    random = np.random.default_rng(0)
    logits = random.normal(size=(37, 8)).astype(np.float32)
    labels = random.integers(0, 8, 37)
    order = np.argsort(-logits, axis=1)
    ranks = np.argmax(order == labels[:, None], axis=1)
    exponents = np.exp(logits.astype(np.float64))
    losses = -np.log(exponents[np.arange(37), labels] / exponents.sum(axis=1))

    strategy = _strategy(cpus, replicas)
    with strategy.scope():
        model = _identity(8)
    batches = strategy.experimental_distribute_dataset(_batches(logits, labels, size))
    metrics = make_evaluate(model, strategy)(batches, -(-len(labels) // size))
    assert metrics["images"] == 37
    assert metrics["wrong"] == np.sum(ranks >= 1)
    assert metrics["top1_error"] == pytest.approx(np.mean(ranks >= 1))
    assert metrics["top5_error"] == pytest.approx(np.mean(ranks >= 5))
    assert metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_top5_is_left_out_for_five_classes():
    logits = np.eye(5, dtype=np.float32)
    metrics = make_evaluate(_identity(5), tf.distribute.get_strategy())(
        _batches(logits, np.arange(5), 5), 1
    )
    assert metrics["top1_error"] == 0
    assert "top5_error" not in metrics


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_network_that_knows_nothing_is_wrong(value):
    """A constant answer ties everywhere, and a NaN compares with nothing: neither is right."""
    logits = np.full((4, 8), value, np.float32)
    metrics = make_evaluate(_identity(8), tf.distribute.get_strategy())(
        _batches(logits, np.arange(4), 4), 1
    )
    assert metrics["top1_error"] == 1
    assert metrics["top5_error"] == 1
