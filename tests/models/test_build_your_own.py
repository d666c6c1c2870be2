"""The README's network assembled from parts: the very text is run."""

import re

import keras
import numpy as np
from conftest import ROOT


def readme_code():
    """Return the README's Python block that starts with `# build your own`."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    found = [block for block in blocks if block.startswith("# build your own")]
    assert len(found) == 1, "README.md needs one Python block that starts with `# build your own`"
    return found[0]


def test_the_readmes_network():
    code = readme_code()
    assert len(code.splitlines()) <= 30
    scope = {}
    exec(compile(code, "README.md", "exec"), scope)
    model = scope["model"]

    blocks = [layer for layer in model.layers if isinstance(layer, keras.layers.Add)]
    channels = [block.output.shape[-1] for block in blocks]
    assert channels == [32] * 6 + [64] * 8 + [128] * 7 + [256] * 5 + [512] * 6
    convolutions = [x for x in model.layers if isinstance(x, keras.layers.Conv2D)]
    kernels = [x.kernel_size[0] for x in convolutions if "_0_conv" not in x.name]
    assert kernels == [7] + [3] * 64
    assert sum("_0_conv" in x.name for x in convolutions) == 4  # where channels change
    pools = [x for x in model.layers if isinstance(x, keras.layers.MaxPooling2D)]
    assert [(x.pool_size, x.strides) for x in pools] == [((2, 2), (2, 2))] * 5
    assert sum(isinstance(x, keras.layers.AveragePooling2D) for x in model.layers) == 1

    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("float32")
    outputs = np.asarray(model(images, training=True))
    assert outputs.shape == (4, model.output_shape[-1])
    np.testing.assert_allclose(outputs.sum(-1), 1, rtol=1e-5)
    # Each weight learns: the parts are connected. One step takes less time than its graph.
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    before = [w.copy() for w in model.get_weights()]
    model.train_on_batch(images, np.arange(4))
    moved = [(a != b).any() for a, b in zip(before, model.get_weights(), strict=True)]
    assert all(moved)
