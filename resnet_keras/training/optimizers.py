"""SGD as the paper's framework ran it, Muon beside it, and the loss scale that float16 needs."""

import math
from collections.abc import Sequence

import keras
import tensorflow as tf


class MomentumSGD:
    """Momentum SGD in Caffe's form, with the L2 term added to the gradient.

    ``v = momentum * v + rate * (g + decay * w)``, ``w = w - v`` (Sec. 3.4). Keras's own
    ``weight_decay`` is decoupled: without momentum, ten times weaker in the long run. Each
    variable is updated by one fused kernel, on the replica's own copy: the gradients come summed
    over the replicas, so every replica does the same, and the decay counts once.

    Args:
        momentum: in [0, 1).
        weight_decay: the coefficient; the paper's 1e-4 is ``regularizers.L2(5e-5)``.
        decayed: ``"kernels"`` (convolution and dense weights) or ``"all"`` trainable variables
            (as PyTorch's SGD does).
    """

    def __init__(self, momentum: float, weight_decay: float, decayed: str = "kernels") -> None:
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.decayed = decayed
        self.velocities: list[tf.Variable] = []

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create the velocities, inside the strategy's scope; they hold -v, as the kernel does."""
        self._variables = [variable.value for variable in variables]
        self._decays = [self.decayed == "all" or v.name == "kernel" for v in variables]
        self.velocities = [tf.Variable(tf.zeros(v.shape), trainable=False) for v in variables]
        self._paths = [variable.path for variable in variables]

    @property
    def state(self) -> dict[str, tf.Variable]:
        """The velocities by the paths of their variables."""
        return dict(zip(self._paths, self.velocities, strict=True))

    def apply(self, gradients: Sequence[tf.Tensor], learning_rate: tf.Tensor) -> None:
        """Update the variables of one replica, inside ``strategy.run``.

        Args:
            gradients: summed over the replicas, one for each variable that ``build`` got.
            learning_rate: float32 scalar.
        """
        for gradient, variable, velocity, decays in zip(
            gradients, self._variables, self.velocities, self._decays, strict=True
        ):
            if self.weight_decay and decays:
                gradient = gradient + self.weight_decay * variable
            tf.raw_ops.ResourceApplyKerasMomentum(
                var=variable.handle,
                accum=velocity.handle,
                lr=learning_rate,
                grad=gradient,
                momentum=self.momentum,
            )


class Muon:
    """Orthogonalised momentum for the convolutions but the first; the rest as ``MomentumSGD`` does.

    A kernel is taken as a matrix of filters. Its momentum, with Nesterov's look ahead, is made a
    matrix whose singular values are near 1, but for those below 2 % of its norm, so that few
    directions of it are slow; the kernel is set to norm sqrt(filters) before each step, which batch
    normalisation behind it does not see, and so needs no decay (Jordan, Muon, 2024; Jordan, 94% on
    CIFAR-10 in 3.29 Seconds on a Single GPU, for convolutions). Not the paper's.

    Args:
        rest: of the first convolution, the classifier, and batch normalisation; not built yet. Its
            momentum is Muon's, too.
        ratio: Muon's learning rate, over that of the rest.
    """

    # Jordan 2024: a quintic iteration that drives singular values of 0..1 towards 1, not to it.
    COEFFICIENTS = (3.4445, -4.7750, 2.0315)
    ITERATIONS = 3

    def __init__(self, rest: MomentumSGD, ratio: float) -> None:
        self.rest = rest
        self.ratio = ratio

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create the velocities, inside the strategy's scope."""
        kernels = [index for index, v in enumerate(variables) if len(v.shape) == 4][1:]
        # Kernels of the same shape are made orthogonal together: many small products are slow.
        self._groups: dict[tuple[int, ...], list[int]] = {}
        for index in kernels:
            self._groups.setdefault(tuple(variables[index].shape), []).append(index)
        self._variables = [variable.value for variable in variables]
        self._others = [index for index in range(len(variables)) if index not in kernels]
        self.rest.build([variables[index] for index in self._others])
        self._own = {
            index: tf.Variable(tf.zeros(variables[index].shape), trainable=False)
            for index in kernels
        }
        self._paths = {index: variables[index].path for index in kernels}

    @property
    def state(self) -> dict[str, tf.Variable]:
        """The velocities by the paths of their variables."""
        return self.rest.state | {self._paths[index]: v for index, v in self._own.items()}

    def apply(self, gradients: Sequence[tf.Tensor], learning_rate: tf.Tensor) -> None:
        """Update the variables of one replica; see ``MomentumSGD.apply``."""
        self.rest.apply([gradients[index] for index in self._others], learning_rate)
        momentum, rate = self.rest.momentum, self.ratio * learning_rate
        for shape, indices in self._groups.items():
            filters = shape[-1]
            ahead = []
            for index in indices:
                velocity = momentum * self._own[index] + gradients[index]
                _assign(self._own[index], velocity)
                ahead.append(gradients[index] + momentum * velocity)
            matrices = tf.reshape(tf.stack(ahead), [len(indices), math.prod(shape[:-1]), filters])
            updates = tf.reshape(orthogonalise(matrices), [len(indices), *shape])
            for index, update in zip(indices, tf.unstack(updates), strict=True):
                kernel = tf.convert_to_tensor(self._variables[index])
                kernel = tf.math.divide_no_nan(filters**0.5 * kernel, tf.norm(kernel))
                _assign(self._variables[index], kernel - rate * update)


def orthogonalise(matrices: tf.Tensor) -> tf.Tensor:
    """Return matrices with the same singular vectors, and singular values near 1.

    Args:
        matrices: float32 [n, rows, columns], of any scale.

    Returns:
        float32 [n, rows, columns]. Singular values of 0.02 times the Frobenius norm and more come
        to lie in 0.68..1.21; zeros stay zero.
    """
    if matrices.shape[-2] > matrices.shape[-1]:  # products of the shorter side are smaller
        return tf.transpose(orthogonalise(tf.transpose(matrices, [0, 2, 1])), [0, 2, 1])
    a, b, c = Muon.COEFFICIENTS
    norms = tf.norm(matrices, axis=[-2, -1], keepdims=True)
    found = tf.math.divide_no_nan(matrices, norms)
    for _ in range(Muon.ITERATIONS):
        squares = tf.matmul(found, found, transpose_b=True)
        found = a * found + tf.matmul(b * squares + c * tf.matmul(squares, squares), found)
    return found


class LossScale:
    """The factor that keeps float16 gradients from vanishing, found by trial.

    Steps whose gradients overflow are left out and halve the factor; ``GROWTH_STEPS`` good ones
    in a row double it (Micikevicius et al., Mixed Precision Training, Sec. 3.2).
    """

    GROWTH_STEPS = 2000

    def __init__(self, initial: float = 2.0**15) -> None:
        self.factor = tf.Variable(initial, trainable=False)
        self._good_steps = tf.Variable(0.0, trainable=False)

    @property
    def state(self) -> dict[str, tf.Variable]:
        """The variables that a checkpoint keeps."""
        return {"factor": self.factor, "good_steps": self._good_steps}

    def update(self, finite: tf.Tensor) -> None:
        """Note whether a step's gradients were finite, on one replica's copy."""
        good = tf.where(finite, self._good_steps + 1, 0.0)
        grown = good >= self.GROWTH_STEPS
        factor = tf.where(finite, tf.where(grown, 2.0, 1.0), 0.5) * self.factor
        tf.raw_ops.AssignVariableOp(
            resource=self.factor.handle, value=tf.clip_by_value(factor, 1.0, 2.0**24)
        )
        tf.raw_ops.AssignVariableOp(
            resource=self._good_steps.handle, value=tf.where(grown, 0.0, good)
        )


def all_finite(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Tell whether no tensor holds an infinity or a NaN: bool scalar."""
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(tensor)) for tensor in tensors])


def _assign(variable: tf.Variable, value: tf.Tensor) -> None:
    """Set one replica's copy by itself."""
    tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)
