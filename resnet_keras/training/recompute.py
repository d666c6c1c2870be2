"""Train deeper than memory allows: keep a few activations, recompute the others going back.

Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost (arXiv:1604.06174).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from resnet_keras.models.layers import FusedBatchNormalization, hold_statistics


def recomputed(model: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return the training-mode forward pass of a model, with its activations recomputed.

    The function takes and returns what ``model(x, training=True)`` does, gives the same gradients
    and updates the batch-norm statistics once. It keeps the outputs of some residual or plain
    blocks; what lies between two of them is computed again when the gradient comes back to it,
    for about a third more time. Call it under a tape, in a tf.function or not, in any replica.

    Args:
        model: functional, one input and one output, with blocks as in ``models.blocks``.

    Raises:
        ValueError: if no layer named ``..._out`` is the only way from input to output, or a layer
            before the last of them draws random numbers or keeps statistics of its own.
    """
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(
            f"{model.name} has {len(model.inputs)} inputs and {len(model.outputs)} outputs: only "
            "a network with one of each can be recomputed; train it without recomputation."
        )
    pieces = _pieces(model.operations, model.outputs[0])
    if len(pieces) == 1:
        raise ValueError(
            f"{model.name} has no residual or plain blocks to cut it at: only a network made of "
            "such blocks can be recomputed; train it without recomputation."
        )
    ends = cut([_inside(piece) for piece in pieces], [_elements(p[-1].output) for p in pieces])
    start, segments = 0, []
    for end in [*ends, len(pieces)]:
        segments.append([operation for piece in pieces[start:end] for operation in piece])
        start = end
    for operation in (operation for segment in segments[:-1] for operation in segment):
        _check(operation)
    layers, entry = [], model.inputs[0]
    for segment in segments:
        exit_ = segment[-1].output
        layers.append(Segment(keras.Function([entry], [exit_]), dtype="float32", autocast=False))
        entry = exit_
    *middle, last = [*map(_recomputed_segment, layers[:-1]), layers[-1]]

    def forward(x: tf.Tensor) -> tf.Tensor:
        x = tf.cast(x, model.inputs[0].dtype)
        for segment in middle:
            x = segment(x)
        return last(x, training=True)  # its gradient follows at once: nothing to be gained

    return forward


def cut(inside: Sequence[int], outputs: Sequence[int]) -> list[int]:
    """Return before which pieces to cut a chain, so that the peak of what it holds is least.

    With every block kept as a boundary the boundaries fill the memory, with a whole stage as a
    segment the stage does (ResNet-1202's first: 200 blocks, 10 GB at batch 128). n like blocks
    need least in about sqrt(n) segments. Blocks of later stages are smaller, so the cuts are
    chosen by size: they may lie within a stage, and a segment may reach across two.

    Args:
        inside: what the gradient of each piece needs, its output included, in any unit.
        outputs: the size of each piece's output, which is held if the next piece is cut off.
    """

    def walk(limit: int) -> tuple[int, list[int]]:
        held, segment, peak, cuts = 0, 0, 0, []
        for index, size in enumerate(inside):
            if segment and held + segment + size > limit:
                cuts.append(index)
                held, segment = held + outputs[index - 1], 0
            segment += size
            peak = max(peak, held + segment)
        return peak, cuts

    return min(walk(sum(inside[: index + 1])) for index in range(len(inside)))[1]


class Segment(keras.layers.Layer):
    """Give a part of a network the `training` argument, which a keras.Function lacks."""

    def __init__(self, function: keras.Function, **options) -> None:
        super().__init__(**options)
        self.function = function

    def call(self, x, training=None):
        """Return the segment's output; Keras hands `training` on to the layers inside."""
        (y,) = self.function([x])
        return y


def _recomputed_segment(segment: Segment) -> Callable[[tf.Tensor], tf.Tensor]:
    # tf.recompute_grad would update the batch-norm statistics in the second pass as well.
    @tf.custom_gradient
    def forward(x):
        y = segment(x, training=True)

        def backward(dy, variables=()):
            # Not before the gradient is there: else TensorFlow finds that the two passes compute
            # the same and merges them, and every activation stays in memory.
            with tf.control_dependencies([dy]):
                again = tf.identity(x)
            with tf.GradientTape() as tape, hold_statistics():
                tape.watch(again)
                y = segment(again, training=True)
            dx, *gradients = tape.gradient(y, [again, *variables], output_gradients=dy)
            # The next segment waits for the weights' gradients: late ones keep this one's inside.
            with tf.control_dependencies([g for g in gradients if g is not None]):
                return tf.identity(dx), gradients

        return y, backward

    return forward


def _pieces(operations: Sequence[keras.Operation], output: keras.KerasTensor) -> list[list]:
    """Split operations, in the order of their execution, after each block's end."""
    last_use = {}
    for index, operation in enumerate(operations):
        for tensor in keras.tree.flatten(operation.input):
            last_use[id(tensor)] = index
    pieces: list[list] = [[]]
    crossing = 0  # the last operation that uses a tensor made before this one
    for index, operation in enumerate(operations):
        pieces[-1].append(operation)
        alone = crossing <= index and operation.output is not output
        if alone and operation.name.endswith("_out"):
            pieces.append([])
        crossing = max(crossing, last_use.get(id(operation.output), 0))
    return pieces


def _elements(tensor: keras.KerasTensor) -> int:
    """Return the values of an image's tensor; 1 where sides are not known: blocks count alike."""
    return 1 if None in tensor.shape[1:] else math.prod(tensor.shape[1:])


def _inside(piece: Sequence[keras.Operation]) -> int:
    """Return how many values the gradient of a piece reads, for an image.

    Outputs of batch norm and additions are not among them: ReLU's gradient reads its own output.
    """
    unread = (keras.layers.BatchNormalization, keras.layers.Add)
    return sum(
        _elements(operation.output) for operation in piece if not isinstance(operation, unread)
    )


def _check(operation: keras.Operation) -> None:
    """Raise ValueError for a layer that would not do the same in the second pass."""
    if not isinstance(operation, keras.layers.Layer):
        return
    draws = len(operation.variables) > len(operation.weights)  # the state of its random numbers
    keeps = operation.trainable and operation.non_trainable_weights
    if draws or (keeps and not isinstance(operation, FusedBatchNormalization)):
        raise ValueError(
            f"{operation.name} ({type(operation).__name__}) draws random numbers or keeps "
            "statistics, so that a second pass would differ from the first: take "
            "FusedBatchNormalization and no dropout, or train without recomputation."
        )
