"""Measure the input pipelines beside their peers, images a second, all in one run.

    python tests/benchmarks/bench_input.py [--turns 5] [--images 1000] [--out FILE]

Needs ../shared/data/imagenet_sample and, for the CIFAR-10 row, ../shared/data/tfds/cifar10.
The contenders take turns; every turn makes a new iterator, because several live ones disturb each
other. Figures are medians over the turns. Each decodes from files in the page cache, on as many
threads or processes as the machine has cores, and batches 32 float32 images of 224x224.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from PIL import Image  # noqa: E402

import pipelines  # noqa: E402
from pipelines import decoding, order, preprocessing, transforms  # noqa: E402
from pipelines.loader import cores, options  # noqa: E402
from pipelines.sources import Source  # noqa: E402
from pipelines.splits import FileSplit  # noqa: E402

SIZE, SIDES, BATCH = 224, (256, 480), 32
# What the project promises: (contender, peer, least ratio).
TARGETS = (
    ("fused", "naive", 1.7),
    ("fused", "inception_crop", 0.97),
    ("fused", "pillow", 2.7),
    ("fused", "windows_alone", 0.85),
    ("whole_recipe", "fused", 0.85),
)


def photographs() -> Source:
    """Return the real ImageNet photographs, with a mean image as ImageNet's own would be."""
    paths = sorted(str(path) for path in (SHARED / "imagenet_sample" / "train").glob("*/*.JPEG"))
    split = FileSplit(np.asarray(paths), np.arange(len(paths), dtype=np.int32))
    mean = np.broadcast_to(np.float32([123.7, 116.8, 103.9]), (SIZE, SIZE, 3))
    known = pipelines.Statistics((123.7, 116.8, 103.9), (58.4, 57.1, 57.4), pixel_mean=mean)
    return Source("photographs", tuple(paths), {"train": split}, known)


def stream(
    source: Source, image_of: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
) -> tf.data.Dataset:
    """Batch the images that a function makes of (encoded, seed), as `train_batches` does."""
    fetch = source.splits["train"].fetch()

    def image(position: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        encoded, _ = fetch(index)
        return image_of(encoded, transforms.image_seed(0, position))

    keys = order.shuffled_indices(source.sizes["train"], 0, 0, (0, 1))
    data = keys.map(image, num_parallel_calls=cores())
    return data.batch(BATCH, drop_remainder=True).prefetch(2).with_options(options())


def fused(encoded: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Cut the window as the project does, without colour and mean."""
    window = preprocessing.random_window(encoded, pipelines.recipe("imagenet"), seed)
    return transforms.random_flip(window, seed)


def naive(encoded: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Decode the whole image, resize it, then crop: the plain tf.data way."""
    image = tf.io.decode_jpeg(encoded, channels=3)
    side = tf.random.stateless_uniform([], seed, SIDES[0], SIDES[1] + 1, tf.int32)
    image = transforms.resize_shorter_side(image, side, antialias=False)
    image = tf.image.stateless_random_crop(image, [SIZE, SIZE, 3], seed)
    return tf.image.stateless_random_flip_left_right(image, seed)


def inception_crop(encoded: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Cut the Inception crop with the operations that Model Garden uses."""
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.io.extract_jpeg_shape(encoded),
        tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        seed,
        min_object_covered=0.1,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.08, 1.0),
        max_attempts=100,
        use_image_if_no_bounding_boxes=True,
    )
    window = tf.concat([begin[:2], extent[:2]], axis=0)
    image = tf.image.decode_and_crop_jpeg(encoded, window, channels=3)
    image = tf.image.stateless_random_flip_left_right(image, seed)
    return tf.image.resize(image, [SIZE, SIZE])


def windows_alone(encoded: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Decode the windows and do nothing with them: the limit."""
    shape = tf.io.extract_jpeg_shape(encoded)[:2]
    window = transforms.scale_jitter_window(shape, SIDES, SIZE, seed)
    return decoding.decode_jpeg_window(encoded, window)[0, 0]


def pillow_images(paths: list[str], seed: int) -> int:
    """Make the same random crops with Pillow, in one of the worker processes."""
    random = np.random.default_rng(seed)
    batch = np.empty((BATCH, SIZE, SIZE, 3), np.float32)
    for number, path in enumerate(paths):
        image = Image.open(path).convert("RGB")
        scale = random.integers(SIDES[0], SIDES[1] + 1) / min(image.size)
        width, height = (round(side * scale) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=None)
        x, y = random.integers(0, width - SIZE + 1), random.integers(0, height - SIZE + 1)
        image = image.crop((x, y, x + SIZE, y + SIZE))
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        batch[number % BATCH] = image
    return len(paths)


def rate(batches: Iterator, images: int, batch_size: int = BATCH) -> float:
    """Measure images a second, after a first batch that fills the pipeline."""
    next(batches)
    start = time.perf_counter()
    for _ in range(images // batch_size):
        next(batches)
    return images // batch_size * batch_size / (time.perf_counter() - start)


def measure(turns: int, images: int) -> dict[str, list[float]]:
    """Let the contenders take turns; images a second of each turn."""
    source = photographs()
    recipe = pipelines.recipe("imagenet")
    plain = {
        function.__name__: function for function in (fused, naive, inception_crop, windows_alone)
    }
    contenders: dict[str, Callable[[], tf.data.Dataset]] = {
        name: lambda function=function: stream(source, function) for name, function in plain.items()
    }
    contenders["whole_recipe"] = lambda: pipelines.train_batches(
        source, recipe, batch_size=BATCH, seed=0
    )
    paths = [str(path) for path in source.splits["train"].paths] * (images // 100)
    rates: dict[str, list[float]] = {name: [] for name in (*contenders, "pillow")}
    with ProcessPoolExecutor(cores()) as pool:
        parts = [paths[worker :: cores()] for worker in range(cores())]
        for _ in range(turns):
            for name, open_dataset in contenders.items():
                rates[name].append(rate(iter(open_dataset()), images))
            start = time.perf_counter()
            done = sum(pool.map(pillow_images, parts, range(cores())))
            rates["pillow"].append(done / (time.perf_counter() - start))
    return rates


def measure_cifar(turns: int) -> list[float]:
    """Measure the CIFAR-10 training stream with pad, crop and flip."""
    source = pipelines.open_source("cifar10", data_dir=SHARED / "tfds")
    recipe = pipelines.recipe("cifar")

    def turn() -> float:
        return rate(
            iter(pipelines.train_batches(source, recipe, batch_size=128, seed=0)), 50_000, 128
        )

    return [turn() for _ in range(turns)]


def measure_memory(images: int) -> dict[str, float]:
    """Read many images and return the peak memory in GB at a quarter of them and at the end."""
    data = pipelines.train_batches(
        photographs(), pipelines.recipe("imagenet"), batch_size=BATCH, seed=0
    )
    batches = iter(data)
    peaks = []
    for part in (images // 4, images - images // 4):
        for _ in range(part // BATCH):
            next(batches)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
    return {"images": images, "peak_gb_at_a_quarter": peaks[0], "peak_gb": peaks[1]}


def main() -> None:
    """Run all of it and write the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--memory_images", type=int, default=20_000)
    parser.add_argument("--memory_only", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.memory_only:
        print(json.dumps(measure_memory(arguments.memory_images)))
        return
    # Memory is measured in a process of its own, before anything else took some.
    command = [sys.executable, __file__, "--memory_only"]
    command += ["--memory_images", str(arguments.memory_images)]
    memory = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rates = measure(arguments.turns, arguments.images)
    if (SHARED / "tfds" / "cifar10").exists():
        rates["cifar10"] = measure_cifar(arguments.turns)
    medians = {name: round(statistics.median(values), 1) for name, values in rates.items()}
    result = {
        "cores": cores(),
        "cpu": cpu_name(),
        "load_before": os.getloadavg()[0],
        "tensorflow": tf.__version__,
        "turns": arguments.turns,
        "images_per_second": medians,
        "all_turns": {
            name: [round(value, 1) for value in values] for name, values in rates.items()
        },
        "ratios": {
            f"{name} / {peer}": {
                "measured": round(medians[name] / medians[peer], 3),
                "target": least,
            }
            for name, peer, least in TARGETS
        },
        "memory": json.loads(memory.splitlines()[-1]),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


def cpu_name() -> str:
    """Return the processor's name where Linux tells it."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().split("\n") if line.startswith("model name")]
    return names[0].partition(": ")[2] if names else platform.processor()


if __name__ == "__main__":
    main()
