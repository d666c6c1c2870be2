"""Data as others write it, and as our own prepare does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from scipy.io import savemat

import pipelines
from pipelines import DataError, recipe, service, test_batches, train_batches
from pipelines.prepare import compute_statistics, prepare
from pipelines.shards import count_records

pytest_plugins = ["source_fixtures"]

WNIDS = ("n01440764", "n02102040", "n03000684")
# Which class each of five validation images has.
TRUTH = [2, 0, 1, 1, 2]


@pytest.fixture
def ilsvrc(write_folder):
    """Write train folders and a flat val folder, without its labels."""
    folder = write_folder({**{f"train/{name}": 2 for name in WNIDS}, "val": len(TRUTH)})
    for number in range(len(TRUTH)):
        path = folder / "val" / f"{number:03d}.jpg"
        path.rename(folder / "val" / f"ILSVRC2012_val_{number + 1:08d}.JPEG")
    return folder


def write_caffe(folder):
    lines = [f"ILSVRC2012_val_{i + 1:08d}.JPEG {label}" for i, label in enumerate(TRUTH)]
    (folder / "val.txt").write_text("\n".join(reversed(lines)) + "\n")


def write_kaggle(folder):
    lines = [
        f"ILSVRC2012_val_{i + 1:08d},{WNIDS[label]} 1 2 3 4 {WNIDS[label]} 5 6 7 8"
        for i, label in enumerate(TRUTH)
    ]
    text = "ImageId,PredictionString\n" + "\n".join(reversed(lines)) + "\n"
    (folder / "LOC_val_solution.csv").write_text(text)


def write_devkit(folder):
    """The development kit numbers the classes in an order of its own, from 1."""
    data = folder / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    numbers = {WNIDS[0]: 3, WNIDS[1]: 1, WNIDS[2]: 2}
    synsets = np.array(
        [(number, name) for name, number in numbers.items()],
        dtype=[("ILSVRC2012_ID", object), ("WNID", object)],
    )
    savemat(data / "meta.mat", {"synsets": synsets})
    lines = "".join(f"{numbers[WNIDS[label]]}\n" for label in TRUTH)
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text(lines)


@pytest.mark.parametrize("write", [write_caffe, write_kaggle, write_devkit])
def test_the_flat_validation_folder_of_ilsvrc(ilsvrc, write):
    write(ilsvrc)
    source = pipelines.open_source("folder", data_dir=ilsvrc)
    assert source.class_names == WNIDS
    test = source.splits["test"]
    assert [path.rsplit("_", 1)[1] for path in test.paths] == [
        f"{i + 1:08d}.JPEG" for i in range(5)
    ]
    assert list(test.labels) == TRUTH


def test_a_flat_validation_folder_without_good_labels_is_refused(ilsvrc):
    with pytest.raises(DataError, match=r"none of val\.txt"):
        pipelines.check("folder", ilsvrc)
    (ilsvrc / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG 0\n")
    with pytest.raises(DataError, match="00000002 the class 'None'"):
        pipelines.check("folder", ilsvrc)
    (ilsvrc / "val.txt").write_text("nonsense\n")
    with pytest.raises(DataError, match="cannot be read as labels of 5 images"):
        pipelines.check("folder", ilsvrc)


@pytest.mark.parametrize(
    ("classes", "labels", "expected"),
    [
        # As text, 1..12 sort to 1, 10, 11, 12, 2, ...: "12" can be no index, and "0" no name.
        (range(1, 13), ("2", "12"), [4, 3]),
        (range(1, 13), ("0", "2"), [0, 2]),
        (range(3), ("2", "1"), [2, 1]),
        ("cat", ("t", "a"), [2, 0]),
    ],
)
def test_labels_are_all_names_or_all_indices(write_folder, classes, labels, expected):
    folder = write_folder({**{f"train/{name}": 1 for name in classes}, "val": 2})
    lines = [f"{number:03d}.jpg {label}" for number, label in enumerate(labels)]
    (folder / "val.txt").write_text("\n".join(lines))
    source = pipelines.open_source("folder", data_dir=folder)
    assert list(source.splits["test"].labels) == expected


def test_numbers_that_are_names_and_other_indices_are_refused(write_folder):
    folder = write_folder({**{f"train/{name}": 1 for name in range(1, 13)}, "val": 2})
    (folder / "val.txt").write_text("000.jpg 1\n001.jpg 2\n")
    with pytest.raises(DataError) as error:
        pipelines.check("folder", folder)
    assert "'1' is a class and the index of '10'" in str(error.value)
    assert "\n" not in str(error.value)


def feature(value) -> tf.train.Feature:
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


@pytest.fixture
def shards(tmp_path):
    """Give shards with Model Garden's names and keys: the label counts from 1."""
    write_shards(tmp_path, first_label=1)
    return tmp_path


def write_shards(tmp_path, first_label):
    number = 0
    for prefix, count, images in (("train", 3, 7), ("validation", 2, 3)):
        for shard in range(count):
            path = tmp_path / f"{prefix}-{shard:05d}-of-{count:05d}"
            with tf.io.TFRecordWriter(str(path)) as writer:
                for _ in range(images - shard):
                    grey = np.full((32, 32, 3), 10 * (number % 25), np.uint8)
                    features = {
                        "image/encoded": feature(tf.io.encode_png(grey).numpy()),
                        "image/class/label": feature(first_label + number % 25),
                        "image/filename": feature(b"some.JPEG"),
                    }
                    example = tf.train.Example(features=tf.train.Features(feature=features))
                    writer.write(example.SerializeToString())
                    number += 1
    (tmp_path / "labels.txt").write_text("\n".join(f"class{label}" for label in range(25)))


def test_model_garden_shards(shards):
    source = pipelines.open_source("tfrecord", data_dir=shards)
    assert source.sizes == {"train": 7 + 6 + 5, "test": 3 + 2}
    assert len(source.class_names) == 25
    plain = recipe("lab", channel_mean=(0, 0, 0), channel_std=(1, 1, 1))
    batches = list(test_batches(source, plain, batch_size=2).as_numpy_iterator())
    labels = np.concatenate([batch["label"] for batch in batches])
    weights = np.concatenate([batch["weight"] for batch in batches])
    grey = np.concatenate([batch["image"] for batch in batches])[:, 0, 0, 0] * 255
    assert sorted(labels[weights == 1]) == [18, 19, 20, 21, 22]
    np.testing.assert_allclose(grey[weights == 1], 10 * labels[weights == 1], rtol=1e-5)
    train = train_batches(source, plain, batch_size=18, seed=0).take(2)
    for batch in train.as_numpy_iterator():
        assert sorted(batch["label"]) == list(range(18))


def test_chosen_classes_and_held_out_images_of_shards(shards):
    source = pipelines.open_source(
        "tfrecord",
        data_dir=shards,
        classes=("class20", "class3", "class5", "class19"),
        validation_images=1,
    )
    assert source.sizes == {"train": 1, "validation": 1, "test": 2}
    plain = recipe("lab")
    found = {
        split: [
            int(label)
            for batch in test_batches(source, plain, split=split, batch_size=1)
            for label in batch["label"]
        ]
        for split in source.splits
    }
    assert sorted(found["test"]) == [0, 3]
    assert sorted(found["train"] + found["validation"]) == [1, 2]


def test_counting_the_records_of_shards_reads_little_of_them(tmp_path):
    record = np.random.default_rng(0).bytes(100_000)
    file = str(tmp_path / "train-00000-of-00001")
    with tf.io.TFRecordWriter(file) as writer:
        for _ in range(100):
            writer.write(record)

    def bytes_read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = bytes_read()
    assert count_records(file) == 100
    # A tenth of the file; the rest of the process may read, too.
    assert bytes_read() - before < 1e6


@pytest.mark.parametrize(("first", "wrong"), [(0, 0), (-1, -1), (6, 26)])
def test_shards_with_other_labels_are_refused(tmp_path, first, wrong):
    """Trained on, they would end in no loss, or with each class under its neighbour's name."""
    write_shards(tmp_path, first_label=first)
    with pytest.raises(DataError, match=rf"has the label {wrong}, .* from 1 to 25: write"):
        pipelines.open_source("tfrecord", data_dir=tmp_path)


def test_class_names_that_are_no_text_are_refused(shards):
    (shards / "labels.txt").write_bytes("\n".join(f"Tür {n}" for n in range(25)).encode("latin-1"))
    with pytest.raises(DataError, match=r"labels\.txt is no UTF-8 text: write a class a line"):
        pipelines.open_source("tfrecord", data_dir=shards)


def test_damaged_shards_are_refused(shards):
    whole = (shards / "train-00001-of-00003").read_bytes()
    (shards / "train-00001-of-00003").write_bytes(whole[:-5])
    with pytest.raises(DataError, match="cut off in record 6; write it again"):
        pipelines.open_source("tfrecord", data_dir=shards)
    broken = bytearray(whole)
    broken[40] ^= 255
    (shards / "train-00001-of-00003").write_bytes(bytes(broken))
    with pytest.raises(DataError, match="damaged"):
        pipelines.open_source("tfrecord", data_dir=shards, classes=("class1", "class2"))
    source = pipelines.open_source("tfrecord", data_dir=shards)
    stream = pipelines.train_stream(source, recipe("lab"), batch_size=18, seed=0)
    with pytest.raises(DataError, match="damaged"):
        next(stream)
    (shards / "train-00000-of-00003").write_bytes(bytes(broken))
    with pytest.raises(DataError, match=r"00000-of-00003 cannot be read: .*; write it again"):
        pipelines.open_source("tfrecord", data_dir=shards)
    (shards / "train-00001-of-00003").unlink()
    with pytest.raises(DataError, match="2 of the 3 shards"):
        pipelines.check("tfrecord", shards)


def test_prepare_writes_what_tfds_reads(write_folder, tmp_path):
    import tensorflow_datasets as tfds

    folder = write_folder({"train/a": 5, "train/b": 7, "val/a": 2, "val/b": 3})
    (folder / "train" / "a" / "broken.jpg").write_bytes(b"not an image")
    source = pipelines.open_source("folder", data_dir=folder)
    chosen = recipe("imagenet", image_size=32)
    named = []
    place, bad = prepare(
        source, tmp_path, name="mine", recipe=chosen, progress=False, log=named.append
    )
    assert bad == named
    assert [name.rsplit("/", 1)[1] for name in bad] == ["broken.jpg"]
    builder = tfds.builder_from_directory(place)
    assert builder.info.splits["train"].num_examples == 12
    assert builder.info.features["label"].names == ["a", "b"]
    stored = tfds.as_numpy(builder.as_dataset(decoders={"image": tfds.decode.SkipDecoding()}))
    for split, examples in stored.items():
        for example in examples:
            path = example["id"].decode()
            assert (folder / path).read_bytes() == example["image"]
            place = "val" if split == "test" else split
            assert path.startswith(f"{place}/{'ab'[example['label']]}/")

    again = pipelines.open_source("mine", data_dir=tmp_path)
    assert again.sizes == {"train": 12, "test": 5}
    # The statistics: centre crops of the readable training images, by plain numpy.
    images = [
        tf.io.decode_jpeg(tf.io.read_file(str(path)), dct_method="INTEGER_ACCURATE")
        for path in sorted(folder.glob("train/*/0*.jpg"))
    ]
    # 40 x 50 pixels become 37 x 46, of which the centre is cut.
    crops = np.stack(
        [tf.image.resize(image, [37, 46], antialias=True)[2:34, 7:39] for image in images]
    )
    np.testing.assert_allclose(again.pixel_mean, crops.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(again.channel_mean, crops.mean(axis=(0, 1, 2)), atol=1e-3)
    np.testing.assert_allclose(again.channel_std, crops.std(axis=(0, 1, 2)), rtol=1e-4)
    # Training subtracts the mean image at its size.
    batch = next(iter(test_batches(again, chosen, split="train", batch_size=12)))
    np.testing.assert_allclose(
        tf.reduce_mean(batch["image"], axis=0), np.zeros((32, 32, 3)), atol=1e-2
    )
    with pytest.raises(DataError, match="is there already"):
        prepare(source, tmp_path, name="mine", recipe=chosen, progress=False)
    with pytest.raises(DataError, match="lower-case"):
        prepare(source, tmp_path, name="My set", recipe=chosen, progress=False)


def test_a_prepared_set_is_never_without_its_statistics(write_folder, tmp_path, monkeypatch):
    source = pipelines.open_source(
        "folder", data_dir=write_folder({"train/a": 2, "train/b": 2, "val/a": 1})
    )

    def killed(*_):
        raise KeyboardInterrupt

    data_dir = tmp_path / "data"
    with monkeypatch.context() as patch:
        patch.setattr(pipelines.statistics, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(source, data_dir, name="mine", recipe=recipe("lab"), progress=False)
    with pytest.raises(DataError, match="There is no data set 'mine'"):
        pipelines.open_source("mine", data_dir=data_dir)
    prepare(source, data_dir, name="mine", recipe=recipe("lab"), progress=False)
    assert pipelines.open_source("mine", data_dir=data_dir).pixel_mean is not None
    assert [path.name for path in data_dir.glob("*/*")] == ["1.0.0"]


def write_tfds(data_dir, labels, *, shape=(None, None, 3), **options):
    """Write a set of TFDS of grey images, split -> labels."""
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(shape=shape),
        "label": tfds.features.ClassLabel(names=["a", "b"]),
    }
    image = np.full((8, 8, 3), 99, np.uint8)
    tfds.dataset_builders.store_as_tfds_dataset(
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={
            split: [(str(i), {"image": image, "label": label}) for i, label in enumerate(found)]
            for split, found in labels.items()
        },
        data_dir=data_dir,
        **options,
    )


@pytest.mark.parametrize("shape", [(None, None, 3), (8, 8, 3)], ids=["records", "in memory"])
def test_a_test_split_without_labels_is_not_tested_on(tmp_path, shape):
    """As iNaturalist's and ImageNet's: TFDS writes -1 for labels that are kept secret."""
    labels = {"train": [0, 1, 1], "test": [-1] * 5, "validation": [1, 0]}
    write_tfds(tmp_path, labels, shape=shape, name="secret")
    source = pipelines.open_source("secret", data_dir=tmp_path)
    assert source.sizes == {"train": 3, "test": 2}
    (batch,) = test_batches(source, recipe("cifar", image_size=8), batch_size=2)
    assert sorted(batch["label"].numpy()) == [0, 1]
    del labels["validation"]
    write_tfds(tmp_path, labels, shape=shape, name="more_secret")
    with pytest.raises(DataError, match=r"'test' or 'validation' with labels\.$"):
        pipelines.open_source("more_secret", data_dir=tmp_path)


def test_a_prepared_configuration_is_opened_without_network(tmp_path, monkeypatch):
    """TFDS keeps it in NAME/CONFIG/VERSION."""
    # A proxy that refuses every connection.
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    write_tfds(tmp_path, {"train": [0, 1], "test": [1]}, name="imagenet_resized", config="8x8")
    for name in ("imagenet_resized", "imagenet_resized/8x8"):
        assert pipelines.open_source(name, data_dir=tmp_path).sizes == {"train": 2, "test": 1}
    large = {"train": [0, 1, 1], "test": [1]}
    write_tfds(tmp_path, large, name="imagenet_resized", config="16x16")
    named = pipelines.open_source("imagenet_resized/16x16", data_dir=tmp_path)
    assert named.sizes == {"train": 3, "test": 1}
    with pytest.raises(DataError, match=r"16x16, 8x8; choose one, as in 'imagenet_resized/16x16'"):
        pipelines.check("imagenet_resized", tmp_path)
    with pytest.raises(DataError, match="There is no data set 'imagenet_sized/8x8'"):
        pipelines.check("imagenet_sized/8x8", tmp_path)
    with pytest.raises(DataError, match="is no name of a data set"):
        pipelines.check("imagenet_resized/../imagenet_resized", tmp_path)


def test_statistics_of_a_set_in_memory_agree(digits):
    computed = compute_statistics(digits, recipe("digits"), progress=False)
    np.testing.assert_allclose(computed.pixel_mean, digits.pixel_mean, atol=1e-3)
    np.testing.assert_allclose(computed.channel_std, digits.channel_std, rtol=1e-4)
    np.testing.assert_allclose(computed.eigenvalues, digits.statistics.eigenvalues, atol=1e-5)


@pytest.mark.slow
def test_an_interrupted_prepare_leaves_nothing_to_open(imagenette, tmp_path):
    code = (
        "import pipelines, pathlib, sys; from pipelines.prepare import prepare;"
        "source = pipelines.open_source('folder', data_dir=sys.argv[1]);"
        "prepare(source, pathlib.Path(sys.argv[2]), name='mine',"
        " recipe=pipelines.recipe('imagenet'), progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(imagenette.place), str(tmp_path)])
    while not list(tmp_path.glob("mine/*/*")):
        time.sleep(0.05)
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.raises(DataError, match="There is no data set 'mine'"):
        pipelines.open_source("mine", data_dir=tmp_path)
    prepare(imagenette, tmp_path, name="mine", recipe=recipe("cifar"), progress=False)
    assert pipelines.open_source("mine", data_dir=tmp_path).sizes["train"] == 600


@pytest.mark.parametrize("name", ["folder", "tfrecord"])
def test_two_data_workers_lose_nothing_and_double_nothing(name, write_folder, shards):
    if name == "folder":
        counts = {f"train/{label:02d}": 1 for label in range(18)}
        place = write_folder({**counts, "val/00": 1, "val/01": 1})
        (place / "train" / "07" / "000.jpg").write_bytes(b"broken")
    else:
        place = shards
    source = pipelines.open_source(name, data_dir=place)
    dispatcher = service.start_dispatcher()
    workers = [service.start_worker(dispatcher.target) for _ in range(2)]
    named = []
    batches = list(
        pipelines.service_batches(
            source,
            recipe("lab"),
            batch_size=6,
            seed=1,
            service=dispatcher.target,
            job=f"test_{name}",
            epochs=4,
            on_bad=named.append,
        ).as_numpy_iterator()
    )
    del workers  # they serve as long as they are referenced
    assert len(batches) == 12
    labels = np.concatenate([batch["label"] for batch in batches])
    weights = np.concatenate([batch["weight"] for batch in batches])
    expected = np.full(18, 4)
    if name == "folder":
        expected[7] = 0
        assert len(named) == 4
    np.testing.assert_array_equal(np.bincount(labels[weights == 1], minlength=18), expected)
    assert (weights == 0).sum() == 72 - expected.sum()


def test_data_workers_are_not_for_sets_in_memory(digits):
    with pytest.raises(DataError, match="fits the memory"):
        pipelines.service_batches(
            digits, recipe("digits"), batch_size=2, seed=1, service="", job="", on_bad=print
        )
