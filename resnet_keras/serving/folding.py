"""The network as it is served: batch norm folded away, plain TensorFlow, one precision.

A convolution, its batch norm and what follows become `conv -> bias_add -> (add) -> relu`, which
TensorFlow runs as one kernel.
"""

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.errors import InputError

PRECISIONS = ("float32", "bfloat16")
LARGE = 32 * 2**20  # bytes, from which a matrix is a variable: fc1 and fc2 of VGG
Step = Callable[..., Any]  # of a layer's tensors, and of a mask and the like, which are None


def taps(model: keras.Model) -> keras.Function:
    """Return the function from a network's input to ``[features, logits]``.

    Features are what the classifier takes: float [N, C], pooled in a ResNet, fc2's in a VGG.

    Args:
        model: functional, of one input [N, H, W, C], float32; ends in a dense layer of logits.

    Raises:
        InputError: for any other model.
    """
    last = next((op for op in model.operations if op.output is model.outputs[0]), None)
    if (
        len(model.inputs) != 1
        or len(model.outputs) != 1
        or not isinstance(last, keras.layers.Dense)
    ):
        raise InputError(
            f"{model.name} cannot be exported: give a network of one input that ends in a dense "
            "classifier."
        )
    if last.activation is not keras.activations.linear:
        raise InputError(
            f"{model.name} ends in {last.activation.__name__}, but exports add the softmax: build "
            "it with classifier_activation=None."
        )
    if {layer.compute_dtype for layer in model.layers} != {"float32"}:
        raise InputError(
            f"{model.name} does not compute in float32 throughout: build it with dtype='float32', "
            "which takes the same weights, and name another precision in the export."
        )
    return keras.Function(model.inputs, [last.input, model.output])


def network(
    model: keras.Model, *, fold: bool = True, precision: str = "float32"
) -> tf.types.experimental.PolymorphicFunction:
    """Return a tf.function that computes what the model does in inference.

    The function takes float32 [N, H, W, C] and returns features [N, F] and logits [N, classes],
    both float32; it is one function whoever calls it, so a SavedModel holds its weights once. They
    are constants: oneDNN then reorders those of a convolution once, else in every call, which at
    batch 1 takes as long as all the rest. The price is memory: in a server, each signature that was
    asked holds a copy. So the large matrices of VGG's dense layers are variables, which all share.

    Args:
        model: as for ``taps``; convolutions, dense layers and batch norms, and any layers
            without weights.
        fold: multiply batch norm into the convolution or dense layer before it.
        precision: "float32" or "bfloat16" of everything but the classifier, which is float32.

    Raises:
        InputError: as ``taps``, and for a layer with weights of another kind.
    """
    graph = taps(model)
    folded = _foldable(graph) if fold else {}
    steps: dict[int, Step] = {id(norm): _same for norm in folded.values()}
    for padding, pooling in _padded_poolings(graph):
        steps[id(padding)], steps[id(pooling)] = _same, _pool_same(pooling)
    for operation in graph.operations:
        if id(operation) not in steps:
            is_classifier = operation.output is model.output
            steps[id(operation)] = _step(
                operation,
                folded.get(id(operation)),
                "float32" if is_classifier else precision,
            )

    form = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)

    @tf.function(input_signature=[form], autograph=False)
    def compute(inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Keras's own way through a functional model; it has no public one for other operations.
        features, logits = graph._run_through_graph(
            [tf.cast(inputs, precision)], operation_fn=lambda operation: steps[id(operation)]
        )
        return tf.cast(features, tf.float32), logits

    return compute


def _padded_poolings(graph: keras.Function) -> list[tuple[Any, Any]]:
    """Return the zero paddings that TensorFlow's "SAME" max pooling does by itself, with it.

    That pads with minus infinity, which is no other answer behind a ReLU, and saves a copy of the
    network's largest activations.
    """
    made_by = {id(operation.output): operation for operation in graph.operations}
    uses = _uses(graph)
    found = []
    for pooling in graph.operations:
        if not isinstance(pooling, keras.layers.MaxPooling2D) or pooling.padding != "valid":
            continue
        padding = made_by.get(id(pooling.input))
        if not isinstance(padding, keras.layers.ZeroPadding2D) or uses[id(padding.output)] > 1:
            continue
        before = made_by.get(id(padding.input))
        sides = zip(padding.input.shape[1:3], pooling.pool_size, pooling.strides, strict=True)
        same = tuple(_same_padding(*side) for side in sides)
        rectified = getattr(before, "activation", None) is keras.activations.relu
        if rectified and padding.padding == same and padding.data_format == "channels_last":
            found.append((padding, pooling))
    return found


def _same_padding(side: int, window: int, stride: int) -> tuple[int, int]:
    total = max((-(-side // stride) - 1) * stride + window - side, 0)
    return total // 2, total - total // 2


def _pool_same(pooling: Any) -> Step:
    return lambda x, **_: tf.nn.max_pool2d(x, pooling.pool_size, pooling.strides, "SAME")


def _uses(graph: keras.Function) -> Counter:
    """Count how often each tensor is used, by its id."""
    nodes = itertools.chain(*graph._nodes_by_depth.values())
    return Counter(id(tensor) for node in nodes for tensor in node.input_tensors)


def _foldable(graph: keras.Function) -> dict[int, Any]:
    """Return the batch norm of each layer it can be folded into, by the layer's id."""
    uses = _uses(graph)
    linear = {
        id(operation.output): operation
        for operation in graph.operations
        if isinstance(operation, keras.layers.Conv2D | keras.layers.Dense)
        and operation.activation is keras.activations.linear
        and uses[id(operation.output)] == 1
    }
    return {
        id(linear[id(norm.input)]): norm
        for norm in graph.operations
        if isinstance(norm, keras.layers.BatchNormalization) and id(norm.input) in linear
    }


def _step(operation: Any, norm: Any, dtype: str) -> Step:
    """Return what is computed for one operation of the model, with its batch norm if given."""
    if isinstance(operation, keras.layers.Conv2D | keras.layers.Dense):
        kernel, bias = _affine(operation, norm)
        return _product(operation, kernel, bias, dtype)
    if isinstance(operation, keras.layers.BatchNormalization):
        scale, offset, mean, variance = _constants(operation)
        return lambda x, **_: _normalise(x, scale, offset, mean, variance, operation.epsilon)
    if operation.weights if isinstance(operation, keras.layers.Layer) else False:
        raise InputError(
            f"Layer {operation.name} is a {type(operation).__name__}: an export knows of layers "
            "with weights Conv2D, Dense and BatchNormalization."
        )
    if isinstance(operation, keras.layers.Dropout):
        return _same
    if isinstance(operation, keras.Model):  # of operations, in a dtype of its own
        return lambda x, **_: tf.cast(operation(tf.cast(x, operation.input.dtype)), dtype)
    if isinstance(operation, keras.layers.Layer):
        return type(operation).from_config({**operation.get_config(), "dtype": dtype})
    return operation


def _same(x: tf.Tensor, **_: Any) -> tf.Tensor:
    return x


def _product(layer: Any, kernel: np.ndarray, bias: np.ndarray, dtype: str) -> Step:
    # keras.activations.linear would add an operation between what TensorFlow fuses.
    plain = layer.activation is keras.activations.linear

    def convolve(x: tf.Tensor) -> tf.Tensor:
        return tf.nn.conv2d(
            x,
            tf.constant(kernel, dtype),
            strides=layer.strides,
            padding=layer.padding.upper(),
            dilations=layer.dilation_rate,
        )

    is_convolution = isinstance(layer, keras.layers.Conv2D)
    shared = None
    if not is_convolution and kernel.nbytes >= LARGE:
        shared = tf.Variable(kernel, trainable=False, dtype=dtype)

    def multiply(x: tf.Tensor) -> tf.Tensor:
        return tf.matmul(x, tf.constant(kernel, dtype) if shared is None else shared)

    product = convolve if is_convolution else multiply

    def step(x: tf.Tensor, **_: Any) -> tf.Tensor:
        y = tf.nn.bias_add(product(tf.cast(x, dtype)), tf.constant(bias, dtype))
        return y if plain else layer.activation(y)

    return step


def _affine(layer: Any, norm: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return kernel and bias of a layer and the batch norm behind it, float32.

    gamma (W x + b - mean) / sqrt(variance + epsilon) + beta, its constants gathered in float64.
    """
    kernel = layer.kernel.numpy().astype(np.float64)
    bias = layer.bias.numpy() if layer.use_bias else np.zeros(kernel.shape[-1])
    if norm is not None:
        gamma, beta, mean, variance = (value.astype(np.float64) for value in _constants(norm))
        scale = gamma / np.sqrt(variance + norm.epsilon)
        kernel, bias = kernel * scale, (bias - mean) * scale + beta
    return kernel.astype(np.float32), bias.astype(np.float32)


def _constants(norm: Any) -> tuple[np.ndarray, ...]:
    """Return gamma, beta, moving mean and moving variance of a batch norm, float32 [C] each."""
    mean, variance = norm.moving_mean.numpy(), norm.moving_variance.numpy()
    gamma = norm.gamma.numpy() if norm.scale else np.ones_like(mean)
    beta = norm.beta.numpy() if norm.center else np.zeros_like(mean)
    return gamma, beta, mean, variance


def _normalise(x: tf.Tensor, scale, offset, mean, variance, epsilon: float) -> tf.Tensor:
    """Apply a batch norm over the last axis as it is; the kernel takes rank 4 only."""
    pixels = x if len(x.shape) == 4 else tf.reshape(x, [-1, 1, 1, x.shape[-1]])
    y, *_ = tf.raw_ops.FusedBatchNormV3(
        x=pixels, scale=scale, offset=offset, mean=mean, variance=variance,
        epsilon=epsilon, is_training=False,
    )  # fmt: skip
    return y if pixels is x else tf.reshape(y, tf.shape(x))
