"""Write ResNet-50 at 224 with random weights as a SavedModel: ours, or Keras Applications' own."""

import argparse
from pathlib import Path

import keras
import numpy as np

import pipelines
from resnet_keras.models import build_model
from resnet_keras.serving.export import export

CLASSES = 1000


def ours(folder: Path, precision: str) -> Path:
    """Export through our folding; return the version's folder."""
    model = build_model("resnet50", classes=CLASSES, classifier_activation=None)
    # As in a trained network: TensorFlow drops constant biases of zero, and with them the fusion
    # of convolution, bias and ReLU.
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.beta.assign(random.normal(0, 0.1, layer.beta.shape))
    # And logits as small: those of an untrained network are so large that float32's last digits
    # show in the probabilities, which an export is checked by.
    classifier = model.get_layer("predictions")
    classifier.kernel.assign(1e-3 * classifier.kernel)
    recipe = pipelines.recipe("imagenet")
    data = pipelines.describe("imagenet2012")
    statistics = pipelines.Statistics(data.channel_mean, data.channel_std)
    folder.mkdir(parents=True)
    return export(
        model,
        folder,
        class_names=[f"n{index:08}" for index in range(CLASSES)],
        preprocess=lambda encoded: pipelines.preprocess_encoded(encoded, recipe, statistics),
        normalise=lambda images: pipelines.normalise(images, recipe, statistics),
        precision=precision,
    )


def keras_own(folder: Path) -> Path:
    """Export as a Keras user does, with one line."""
    keras.applications.ResNet50(weights=None).export(folder / "1", verbose=False)
    return folder / "1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="of versions, a new one")
    parser.add_argument("--keras", action="store_true", help="Keras Applications' model.export()")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args()
    if arguments.keras:
        keras_own(arguments.folder)
    else:
        ours(arguments.folder, arguments.precision)


if __name__ == "__main__":
    main()
