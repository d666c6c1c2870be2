"""What trainings and tests cost in multiply-adds, and how many of them a second this machine does.

Without TensorFlow, so that it is told at once.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pipelines
from resnet_keras.command_line import read_run
from resnet_keras.config import Config
from resnet_keras.errors import InputError
from resnet_keras.models import complexity
from resnet_keras.records import LOG, read_records
from resnet_keras.training.runs import cores, cpu, instructions, read_config

BACKWARD = 2  # gradients of inputs and of weights cost as much as the forward pass each
ASPECT = 4 / 3  # of a photograph, where whole images are tested
LARGE = 128  # pixels: smaller images keep no GPU busy, and are slower a multiply-add
# GPUs in float32, and their multiply-adds a second, by whether images are large.
# NVIDIA/DeepLearningExamples, ResNet-50 v1.5 in TensorFlow, 8 V100 of a DGX-1 with XLA: 3,170
# images/s; 4.09e9 multiply-adds forward. Keras 2's examples/cifar10_resnet.py, ResNet-110, one GTX
# 1080 Ti: an epoch of 50,000 images in batches of 32 in 165 s; 2.53e8 multiply-adds forward.
GPUS = {
    True: ("8 V100 GPUs", 3_170 * (1 + BACKWARD) * 4.09e9),
    False: ("one GTX 1080 Ti", 50_000 / 165 * (1 + BACKWARD) * 2.53e8),
}


def training_cost(config: Config) -> int:
    """Return the multiply-adds of a whole training."""
    small = min(config.small_image_steps, config.train_steps)
    forward = (config.train_steps - small) * forward_cost(config)
    if small:
        forward += small * forward_cost(config, config.small_image_size)
    passes = 1 + BACKWARD + (1 if config.recompute else 0)  # which goes forward once more
    return passes * forward * config.batch_size


def forward_cost(config: Config, image_size: int = 0) -> int:
    """Return the multiply-adds of one image, of the run's own size or another."""
    rows = complexity.stages(
        config.model,
        classes=len(config.classes) or pipelines.describe(config.dataset).classes,
        input_size=image_size or config.image_size or None,
        **config.architecture_arguments(),
    )
    return complexity.total(rows).multiply_adds


def test_images(config: Config) -> int | None:
    """Return the number of images reported on; None where the disk decides."""
    data = pipelines.describe(config.dataset)
    if config.validation_images or data.test_images is None or data.classes is None:
        return config.validation_images or None
    return data.test_images * (len(config.classes) or data.classes) // data.classes


def crops(config: Config, views: Sequence[str]) -> float:
    """Return how many images of the network's size a test image costs."""
    recipe = config.make_recipe()
    total = 0.0
    for view in views:
        scales = config.evaluation_scales(view, recipe)
        # A whole image and its mirror image at each scale.
        whole = sum(2 * ASPECT * (side / recipe.image_size) ** 2 for side in scales)
        total += {"center": 1, "ten_crop": 10, "multi_crop": 50 * len(scales)}.get(view, whole)
    return total


def is_large(config: Config) -> bool:
    """Tell whether a run's images are large enough to keep a GPU busy."""
    return config.make_recipe().image_size >= LARGE


def rate(root: Path, config: Config) -> tuple[float | None, str]:
    """Return multiply-adds a second, and how they were measured; None where that fails.

    Args:
        root: folder of runs. Those made on such a processor as this one's tell it.
        config: whose training it is about; with images of another kind (``is_large``), or in
            another precision, the speed is another.
    """
    rates = list(_measured(root, config))
    if rates:
        return statistics.median(rates), f"measured by the runs in {root}"
    done = subprocess.run(
        [sys.executable, "-m", "resnet_keras.training.speed", config.precision],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return None, f"measuring it ended with exit code {done.returncode}"
    return float(done.stdout), "measured just now on one block"


def _measured(root: Path, config: Config) -> Iterator[float]:
    here = {"cpu": cpu(), "cores": cores(), "instructions": instructions()}
    for file in sorted(root.glob(f"*/{LOG}")):
        try:
            run = read_run(str(file.parent))
            made_on = read_config(file.parent)["environments"][-1]
            # Older versions noted less of the machine.
            if any(made_on.get(name, value) != value for name, value in here.items()):
                continue
            # What is computed twice is not in the cost of a step.
            if run.recompute:
                continue
            # A run's precision is what auto was made.
            if is_large(run) != is_large(config) or config.precision not in ("auto", run.precision):
                continue
            cost = (1 + BACKWARD) * forward_cost(run)
            speeds = [
                record["images_per_second"]
                for record in read_records(file, "restore the file")
                # Those on small images do not cost the same.
                if "images_per_second" in record and record["step"] > run.small_image_steps
            ]
        except (InputError, pipelines.DataError, OSError, ValueError, LookupError, TypeError):
            continue  # what is no run's directory measures nothing
        if speeds:
            yield cost * statistics.median(speeds)
