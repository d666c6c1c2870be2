import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored

from resnet_keras.training.optimizers import MomentumSGD, Muon, orthogonalise


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


def _flattened(singular_values: np.ndarray) -> np.ndarray:
    """Jordan's quintic, three times, on singular values of a matrix of Frobenius norm 1."""
    for _ in range(3):
        singular_values = (
            3.4445 * singular_values - 4.7750 * singular_values**3 + 2.0315 * singular_values**5
        )
    return singular_values


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
def test_orthogonalise_keeps_singular_vectors_and_flattens_their_values(shape):
    random = np.random.default_rng(0)
    matrices = random.normal(size=(2, *shape))
    matrices[1] *= 1e-6  # gradients have any scale
    found = orthogonalise(tf.constant(matrices, tf.float32)).numpy()
    for matrix, result in zip(matrices, found, strict=True):
        u, values, v = np.linalg.svd(matrix, full_matrices=False)
        expected = (u * _flattened(values / np.linalg.norm(values))) @ v
        np.testing.assert_allclose(result, expected, atol=1e-5)
        flat = np.linalg.svd(result, compute_uv=False)
        assert flat.min() > 0.68
        assert flat.max() < 1.21


def test_orthogonalise_leaves_zeros_as_they_are():
    np.testing.assert_array_equal(orthogonalise(tf.zeros([1, 2, 3])), np.zeros([1, 2, 3]))


def _convolutions() -> keras.Model:
    x = y = keras.Input((8, 8, 3))
    for index in range(3):  # the last two have kernels of one shape
        y = keras.layers.Conv2D(4, 3, use_bias=False, name=f"conv{index}")(y)
        y = keras.layers.BatchNormalization(name=f"bn{index}")(y)
    return keras.Model(x, keras.layers.Dense(2, name="fc")(keras.layers.Flatten()(y)))


def test_muon_orthogonalises_inner_convolutions_and_leaves_the_rest_to_momentum():
    model = _convolutions()
    optimizer = Muon(MomentumSGD(0.9, 0.1), ratio=0.5)
    optimizer.build(model.trainable_variables)
    random = np.random.default_rng(0)
    starts = [v.numpy() for v in model.trainable_variables]
    steps = [
        [random.normal(size=v.shape).astype("float32") for v in model.trainable_variables]
        for _ in range(2)
    ]
    for gradients, rate in zip(steps, (0.2, 0.1), strict=True):
        optimizer.apply([tf.constant(g) for g in gradients], tf.constant(rate))

    plain = _convolutions()
    momentum = MomentumSGD(0.9, 0.1)
    momentum.build(plain.trainable_variables)
    for variable, start in zip(plain.trainable_variables, starts, strict=True):
        variable.assign(start)
    for gradients, rate in zip(steps, (0.2, 0.1), strict=True):
        momentum.apply([tf.constant(g) for g in gradients], tf.constant(rate))

    for index, variable in enumerate(model.trainable_variables):
        if variable.path not in ("conv1/kernel", "conv2/kernel"):
            np.testing.assert_array_equal(variable, plain.trainable_variables[index])
            continue
        kernel, velocity = starts[index].astype(np.float64), 0.0
        for gradients, rate in zip(steps, (0.2, 0.1), strict=True):
            velocity = 0.9 * velocity + gradients[index]
            ahead = (gradients[index] + 0.9 * velocity).reshape(36, 4)
            u, values, v = np.linalg.svd(ahead, full_matrices=False)
            update = (u * _flattened(values / np.linalg.norm(values))) @ v
            kernel *= 2 / np.linalg.norm(kernel)  # the root of four filters
            kernel = kernel - 0.5 * rate * update.reshape(kernel.shape)
        np.testing.assert_allclose(variable.numpy(), kernel, atol=1e-5)
    assert set(optimizer.state) == {v.path for v in model.trainable_variables}


def test_muon_moves_a_kernel_of_zeros():
    """Its norm is 0, and cannot be set: it would be no number."""
    model = _convolutions()
    optimizer = Muon(MomentumSGD(0.9, 0.0), ratio=1.0)
    optimizer.build(model.trainable_variables)
    kernel = model.get_layer("conv1").kernel
    kernel.assign(tf.zeros(kernel.shape))
    ones = [tf.ones(variable.shape) for variable in model.trainable_variables]
    optimizer.apply(ones, tf.constant(0.1))
    # Of equal gradients the only singular value is the norm: three times the quintic of 1.
    expected = -0.1 * _flattened(np.ones(1)) / 12
    np.testing.assert_allclose(kernel, np.full(kernel.shape, expected), rtol=1e-5)


def test_muon_does_the_same_on_every_replica(cpus):
    kernels = []
    for count in (1, 2):
        strategy = mirrored(cpus[:count])
        with strategy.scope():
            keras.utils.set_random_seed(0)
            model = _convolutions()
            optimizer = Muon(MomentumSGD(0.9, 0.0), ratio=1.0)
            optimizer.build(model.trainable_variables)

        @tf.function
        def step(strategy=strategy, model=model, optimizer=optimizer):
            def replica():
                ones = [tf.ones(v.shape) for v in model.trainable_variables]
                optimizer.apply(ones, tf.constant(0.1))

            strategy.run(replica)

        step()
        kernel = model.get_layer("conv2").kernel.value
        copies = [copy.numpy() for copy in strategy.experimental_local_results(kernel)]
        assert len(copies) == count
        kernels += copies
    np.testing.assert_array_equal(kernels[1], kernels[0])
    np.testing.assert_array_equal(kernels[2], kernels[0])
