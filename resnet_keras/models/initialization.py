"""The published initialisations, by name."""

from __future__ import annotations

import math

import keras


def initializers(name: str, fan_in: int) -> dict[str, keras.initializers.Initializer]:
    """Return `kernel_initializer` and `bias_initializer` for one layer with `fan_in` inputs.

    he_normal: N(0, 2 / fan_in), not truncated; bias 0 (He et al. 2015 [13]).
    glorot_uniform: U(+-sqrt(6 / (fan_in + fan_out))); bias 0 (VGG paper, Sec. 3.1).
    vgg_paper: N(0, variance 1e-2); bias 0 (VGG paper, Sec. 3.1).
    pytorch: U(+-1 / sqrt(fan_in)) for kernel and bias, PyTorch's default.
    A Keras initializer draws the same values at each call: ask anew for each layer.
    """
    bias = keras.initializers.Zeros()
    if name == "he_normal":
        # keras.initializers.HeNormal is truncated at two standard deviations.
        kernel = keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")
    elif name == "glorot_uniform":
        kernel = keras.initializers.GlorotUniform()
    elif name == "vgg_paper":
        kernel = keras.initializers.RandomNormal(stddev=math.sqrt(1e-2))
    elif name == "pytorch":
        limit = 1 / math.sqrt(fan_in)
        kernel = keras.initializers.RandomUniform(-limit, limit)
        bias = keras.initializers.RandomUniform(-limit, limit)
    else:
        raise ValueError(
            f"initializer={name!r} is not one of 'he_normal', 'glorot_uniform', 'vgg_paper', "
            "'pytorch'."
        )
    return {"kernel_initializer": kernel, "bias_initializer": bias}
