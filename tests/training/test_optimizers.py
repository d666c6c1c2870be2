import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored

from resnet_keras.training.optimizers import MomentumSGD


def _model() -> keras.Model:
    x = keras.Input((3,))
    y = keras.layers.BatchNormalization(name="bn")(keras.layers.Dense(2, name="fc")(x))
    return keras.Model(x, y)


def _expected(start, gradient, decays, rates, momentum, decay):
    """Caffe's rule, written out: V = m V + lr (g + decay W); W = W - V."""
    weights, velocity = start.astype(np.float64), 0.0
    for rate in rates:
        velocity = momentum * velocity + rate * (gradient + decays * decay * weights)
        weights = weights - velocity
    return weights


@pytest.mark.parametrize(("decayed", "others"), [("kernels", 0), ("all", 1)])
def test_updates_follow_caffe_with_the_decay_in_the_gradient(decayed, others):
    model = _model()
    optimizer = MomentumSGD(0.9, 0.1, decayed)
    optimizer.build(model.trainable_variables)
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(random.normal(size=variable.shape))
    starts = [v.numpy() for v in model.trainable_variables]
    gradients = [random.normal(size=v.shape).astype("float32") for v in model.trainable_variables]
    rates = [0.1, 0.1, 0.01]  # a drop, where the two common forms of momentum differ
    for rate in rates:
        optimizer.apply([tf.constant(g) for g in gradients], tf.constant(rate))
    for variable, start, gradient in zip(model.trainable_variables, starts, gradients, strict=True):
        decays = 1 if variable.path == "fc/kernel" else others
        expected = _expected(start, gradient, decays, rates, 0.9, 0.1)
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_decay_counts_once_whatever_the_number_of_replicas(cpus):
    weights = []
    for count in (1, 2):
        strategy = mirrored(cpus[:count])
        with strategy.scope():
            model = _model()
            optimizer = MomentumSGD(0.0, 0.5, "kernels")
            optimizer.build(model.trainable_variables)
            for variable in model.trainable_variables:
                variable.assign(tf.ones(variable.shape))

        @tf.function
        def step(strategy=strategy, model=model, optimizer=optimizer):
            def replica():
                zeros = [tf.zeros(v.shape) for v in model.trainable_variables]
                optimizer.apply(zeros, tf.constant(1.0))

            strategy.run(replica)

        step()
        weights.append(model.get_layer("fc").kernel.value.numpy())
    np.testing.assert_allclose(weights[0], 0.5)
    np.testing.assert_allclose(weights[1], 0.5)
