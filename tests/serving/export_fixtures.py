"""One export of a small network, for all that only look at it or ask it."""

import numpy as np
import pytest
from pictures import NAMES, png

import pipelines
from resnet_keras.models import build_model
from resnet_keras.serving import manifest
from resnet_keras.serving.export import export
from resnet_keras.serving.places import check_writable


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Give a small network, the arguments of its export, and the folder it was exported to."""
    folder = tmp_path_factory.mktemp("exports") / "small"
    check_writable(folder, "export_dir")
    model = build_model("cifar_resnet8", classes=7, classifier_activation=None)
    random = np.random.default_rng(0)
    for variable in model.variables:  # batch norms that do something, as after training
        if variable.name != "kernel":
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
    recipe = pipelines.recipe("lab")
    statistics = pipelines.Statistics((120.0, 115.0, 100.0), (60.0, 60.0, 60.0))
    arguments = {
        "class_names": NAMES,
        "preprocess": lambda encoded: pipelines.preprocess_encoded(encoded, recipe, statistics),
        "normalise": lambda images: pipelines.normalise(images, recipe, statistics),
        "samples": [b"not an image", png(np.full((50, 40, 3), 90, np.uint8))],
        "facts": {
            "step": 12,
            "preprocessing": manifest.preprocessing(recipe, statistics),
        },
    }
    version = export(model, folder, **arguments)
    return model, arguments, version
