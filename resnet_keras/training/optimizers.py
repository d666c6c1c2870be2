"""SGD as the paper's framework ran it, and the loss scale that float16 needs."""

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
