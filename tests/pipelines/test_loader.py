"""The streams: order, resume, sharding, masks."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import pipelines
from pipelines import recipe, test_batches, train_batches
from pipelines.order import shuffled_indices
from pipelines.sources import Source
from pipelines.splits import ArraySplit, FileSplit
from pipelines.statistics import Statistics, of_images

pytest_plugins = ["source_fixtures"]

NEUTRAL = Statistics((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def numbered(count: int, size: int = 32) -> Source:
    """Return a source whose label is the number of the image."""
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones(
        (1, size, size, 3), np.uint8
    )
    split = ArraySplit(images, np.arange(count, dtype=np.int32))
    return Source("numbered", ("a", "b"), {"train": split, "test": split}, NEUTRAL)


def take(data: tf.data.Dataset, count: int) -> list[dict[str, np.ndarray]]:
    return list(data.take(count).as_numpy_iterator())


def test_batches_run_across_epochs_and_show_each_image_once_an_epoch():
    batches = take(train_batches(numbered(50), recipe("cifar"), batch_size=16, seed=3), 25)
    labels = np.concatenate([batch["label"] for batch in batches])
    epochs = labels.reshape(8, 50)
    for epoch in epochs:
        assert sorted(epoch) == list(range(50))
    assert len({tuple(epoch) for epoch in epochs}) == 8
    assert all((batch["weight"] == 1).all() for batch in batches)


def test_flips_alternate_from_epoch_to_epoch_and_random_ones_do_not():
    """Images are brighter to the right, so that those that darken are flipped."""
    source = numbered(50)
    ramp = np.broadcast_to(np.arange(0, 64, 2, dtype=np.uint8)[:, None], (50, 32, 32, 3))
    labels = np.arange(50, dtype=np.int32)
    source = dataclasses.replace(source, splits={"train": ArraySplit(ramp, labels)})

    def flipped(seed, *, start=0, hosts=1, alternate=True):
        found = np.zeros([4, 50], bool)
        for host in range(hosts):
            data = train_batches(
                source, recipe("cifar", alternate_flips=alternate), batch_size=10 // hosts,
                seed=seed, start=start, shard_index=host, shard_count=hosts,
            )  # fmt: skip
            for number, batch in enumerate(take(data, 20 - start // 10), start // 10):
                darker = batch["image"][:, 16, 12, 0] > batch["image"][:, 16, 20, 0]
                found[number // 5, batch["label"]] = darker
        return found

    found = flipped(0)
    np.testing.assert_array_equal(found[1], ~found[0])
    np.testing.assert_array_equal(found[2], found[0])
    np.testing.assert_array_equal(found[3], ~found[0])
    assert 10 < found[0].sum() < 40, "25 expected, deviation 3.5"
    np.testing.assert_array_equal(flipped(0, start=150)[3], found[3])
    np.testing.assert_array_equal(flipped(0, hosts=2), found)
    assert (flipped(1)[0] != found[0]).any()
    usual = flipped(0, alternate=False)
    assert 10 < (usual[0] == usual[1]).sum() < 40


def test_flips_do_not_alternate_where_images_are_read_one_by_one(imagenette):
    with pytest.raises(pipelines.DataError, match="leave alternate_flips out"):
        recipe("imagenet", alternate_flips=True)
    chosen = recipe("cifar", alternate_flips=True)
    with pytest.raises(pipelines.DataError, match="in memory, 32 pixels a side"):
        train_batches(imagenette, chosen, batch_size=8, seed=0)


def test_order_is_new_in_every_epoch_and_for_every_seed():
    count = 2000

    def epoch(seed, number):
        data = train_batches(
            numbered(count, 8),
            recipe("cifar", image_size=8),
            batch_size=count,
            seed=seed,
            start=number * count,
        )
        return take(data, 1)[0]["label"]

    first = epoch(0, 0)
    for other in (epoch(0, 1), epoch(1, 0), epoch(0, 2), epoch(2, 1)):
        # A correlation of independent permutations has deviation 1 / sqrt(2000) = 0.022.
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.1
        assert (first == other).sum() < 8
    np.testing.assert_array_equal(first, epoch(0, 0))


def equal(left: list, right: list) -> bool:
    return len(left) == len(right) and all(
        (ours[key] == theirs[key]).all()
        for ours, theirs in zip(left, right, strict=True)
        for key in ("image", "label", "weight")
    )


@pytest.mark.parametrize(
    ("name", "recipe_name"),
    [
        ("digits", "digits"),
        ("digits", "vgg"),
        ("imagenette", "imagenet"),
        ("imagenette", "lab"),
        ("imagenet", "imagenet"),
    ],
)
def test_a_stream_started_anywhere_equals_the_uninterrupted_one(name, recipe_name, request):
    source = request.getfixturevalue(name)
    chosen = recipe(recipe_name, image_size=32)
    size = source.sizes["train"]
    whole = take(train_batches(source, chosen, batch_size=15, seed=5), (2 * size) // 15 + 6)
    for batch in np.random.default_rng(0).integers(1, len(whole) - 3, 5):
        data = train_batches(source, chosen, batch_size=15, seed=5, start=int(batch) * 15)
        assert equal(take(data, 3), whole[batch : batch + 3])
    other_seed = take(train_batches(source, chosen, batch_size=15, seed=6), 3)
    assert not equal(other_seed, whole[:3])


def test_augmentation_does_not_depend_on_the_batch_size(digits):
    small = take(train_batches(digits, recipe("digits"), batch_size=4, seed=1), 6)
    large = take(train_batches(digits, recipe("digits"), batch_size=12, seed=1), 2)
    np.testing.assert_array_equal(
        np.concatenate([batch["image"] for batch in small]),
        np.concatenate([batch["image"] for batch in large]),
    )


@pytest.mark.parametrize("name", ["digits", "imagenet"])
def test_the_global_seed_of_the_process_changes_nothing(name, request):
    source = request.getfixturevalue(name)
    streams = []
    for number in (0, 1):  # TensorFlow treats 0 as a case of its own
        tf.random.set_seed(number)
        data = train_batches(source, recipe("imagenet", image_size=32), batch_size=16, seed=3)
        streams.append(take(data, 2))
    assert equal(*streams)


def test_skipping_reads_no_image(write_folder):
    """A start far inside the stream does not touch the images before it."""
    place = write_folder({"train/a": 20, "train/b": 20, "val/a": 1, "val/b": 1})
    source = pipelines.open_source("folder", data_dir=place)
    chosen = recipe("imagenet", image_size=32)
    first = take(train_batches(source, chosen, batch_size=20, seed=0), 2)
    split = source.splits["train"]
    assert isinstance(split, FileSplit)
    expected = first[1]
    # The images of the first batch are gone: only the second can still be read.
    order = list(take_labels_and_paths(source, seed=0))
    for path in order[:20]:
        open(path, "wb").close()
    again = take(train_batches(source, chosen, batch_size=20, seed=0, start=20), 1)
    assert equal(again, [expected])


def take_labels_and_paths(source: Source, seed: int) -> list[str]:
    """Return the paths of the first epoch, in the order of the stream."""
    split = source.splits["train"]
    keys = shuffled_indices(len(split), seed, 0, (0, 1)).take(len(split))
    indices = [int(index) for _, index in keys]
    return [str(split.paths[index]) for index in indices]


@pytest.mark.parametrize(("name", "hosts"), [("digits", 2), ("digits", 7), ("imagenet", 3)])
def test_hosts_share_an_epoch_without_overlap(name, hosts, request):
    source = request.getfixturevalue(name)
    size = source.sizes["train"]
    chosen = recipe("lab", image_size=32)
    split = source.splits["train"]
    if isinstance(split, ArraySplit):
        split = ArraySplit(split.images[:200], np.arange(200, dtype=np.int32))
        source = Source("part", source.class_names, {"train": split}, source.statistics)
        size = 200
    epochs = 2
    seen: list[int] = []
    for host in range(hosts):
        # Positions host, host + hosts, ... below epochs * size.
        mine = len(range(host, epochs * size, hosts))
        data = train_batches(
            source, chosen, batch_size=1, seed=2, shard_index=host, shard_count=hosts
        )
        seen += [int(batch["label"][0]) for batch in take(data, mine)]
    expected = np.bincount(
        [
            int(b["label"][0])
            for b in take(train_batches(source, chosen, batch_size=1, seed=2), size)
        ]
    )
    np.testing.assert_array_equal(np.bincount(seen), epochs * expected)


def test_hosts_resume_where_they_were(imagenet):
    chosen = recipe("lab", image_size=32)
    for host in range(2):
        shard = {"shard_index": host, "shard_count": 2}
        whole = take(train_batches(imagenet, chosen, batch_size=4, seed=2, **shard), 20)
        later = take(train_batches(imagenet, chosen, batch_size=4, seed=2, start=72, **shard), 11)
        assert equal(later, whole[9:])


@pytest.mark.parametrize("batch_size", [7, 10, 16, 50])
def test_testing_counts_every_image_once(batch_size):
    batches = take(test_batches(numbered(30), recipe("cifar"), batch_size=batch_size), 100)
    assert {batch["image"].shape for batch in batches} == {(batch_size, 32, 32, 3)}
    weights = np.concatenate([batch["weight"] for batch in batches])
    labels = np.concatenate([batch["label"] for batch in batches])
    assert list(labels[weights == 1]) == list(range(30))
    assert set(weights) <= {0.0, 1.0}


def test_shapes_are_static(digits, imagenette, imagenet):
    for source, name in ((digits, "digits"), (imagenette, "imagenet"), (imagenet, "cifar")):
        chosen = recipe(name)
        size = chosen.image_size
        for data in (
            train_batches(source, chosen, batch_size=8, seed=0),
            test_batches(source, chosen, batch_size=8),
        ):
            spec = data.element_spec
            assert spec["image"].shape == (8, size, size, 3)
            assert spec["label"].shape == spec["weight"].shape == (8,)
            assert spec["label"].dtype == tf.int32


def test_imagenet_test_images_are_their_labels(imagenet):
    batches = take(test_batches(imagenet, recipe("imagenet", image_size=32), batch_size=16), 9)
    weights = np.concatenate([batch["weight"] for batch in batches])
    labels = np.concatenate([batch["label"] for batch in batches])[weights == 1]
    # One photograph a class, in the data beside the project.
    assert len(set(labels)) == 40
    assert labels.max() < 1000


def test_training_pixels_are_the_pixels_less_their_mean(digits):
    """Every training image, shifted back, is the source image with its mean subtracted."""
    batch = take(train_batches(digits, recipe("digits"), batch_size=16, seed=9), 1)[0]
    split = digits.splits["train"]
    centred = np.pad(
        split.images.astype(np.float32) - digits.pixel_mean, ((0, 0), (4, 4), (4, 4), (0, 0))
    )
    for image, label in zip(batch["image"], batch["label"], strict=True):
        candidates = centred[split.labels == label]
        best = min(
            np.abs(candidates[:, y : y + 32, x : x + 32] - image).mean(axis=(1, 2, 3)).min()
            for y in range(9)
            for x in range(9)
        )
        assert best < 1e-3


@pytest.mark.parametrize("name", ["cifar", "lab"])
def test_a_batch_in_memory_is_what_numpy_makes_of_it(name):
    """From the same random numbers: Sec. 4.2's order of steps, and the lab report's."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    split = ArraySplit(pixels, np.arange(24, dtype=np.int32))
    source = Source("noise", ("a", "b"), {"train": split}, of_images(pixels))
    batch = take(train_batches(source, recipe(name), batch_size=24, seed=7), 1)[0]
    border = ((4, 4), (4, 4), (0, 0))
    drawn = shuffled_indices(24, 7, 0, (0, 1), draws=3).take(24).as_numpy_iterator()
    for image, label, (_, index, uniform) in zip(
        batch["image"], batch["label"], drawn, strict=True
    ):
        if name == "cifar":
            padded = np.pad(pixels[index] - pixels.mean(axis=0), border)
        else:
            black = np.pad(pixels[index], border) / 255
            padded = (black - (0.4914, 0.4822, 0.4465)) / (0.2023, 0.1994, 0.2010)
        y, x = (uniform[:2] * 9).astype(int)
        expected = padded[y : y + 32, x : x + 32]
        expected = expected[:, ::-1] if uniform[2] < 0.5 else expected
        assert label == index
        np.testing.assert_allclose(image, expected, atol=1e-4)
