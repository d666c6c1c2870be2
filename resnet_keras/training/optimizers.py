"""SGD as the paper's framework ran it."""

import keras


class CoupledDecaySGD(keras.optimizers.SGD):
    """Momentum SGD in Caffe's form, with the L2 term added to the gradient.

    ``v = momentum * v + rate * (g + decay * w)``, ``w = w - v`` (Sec. 3.4). Keras's own
    ``weight_decay`` is decoupled: without momentum, ten times weaker in the long run. The term is
    added after the gradients of all replicas are summed, so it counts once.

    Args:
        momentum: in [0, 1).
        coupled_decay: the coefficient; the paper's 1e-4 is ``regularizers.L2(5e-5)``.
        decayed: ``"kernels"`` (convolution and dense weights, as the authors did) or ``"all"``
            trainable variables (as PyTorch's SGD does).
    """

    def __init__(self, momentum: float, coupled_decay: float, decayed: str) -> None:
        super().__init__(learning_rate=0.0, momentum=momentum, name="sgd")
        self.coupled_decay = coupled_decay
        self.decayed = decayed

    def build(self, variables) -> None:
        """Create the momentum variables and note which variables decay."""
        super().build(variables)
        self._decays = [self.decayed == "all" or v.name == "kernel" for v in variables]

    def update_step(self, gradient, variable, learning_rate) -> None:
        """Update one variable on one device."""
        if self.coupled_decay and self._decays[self._get_variable_index(variable)]:
            gradient = gradient + self.coupled_decay * variable
        super().update_step(gradient, variable, learning_rate)
