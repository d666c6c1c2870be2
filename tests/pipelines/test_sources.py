"""What a data set holds, which images are held out, and how faults are reported."""

import dataclasses
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

import pipelines
from pipelines import DataError, sources
from pipelines.splits import ArraySplit, RecordSplit

pytest_plugins = ["source_fixtures"]


def one_sentence(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_import_and_check_do_not_load_tensorflow():
    code = (
        "import sys, pipelines; pipelines.check('digits'); pipelines.recipe('imagenet');"
        "assert 'tensorflow' not in sys.modules and 'tensorflow_datasets' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_can_be_imported():
    for name in pipelines.__all__:
        assert getattr(pipelines, name) is not None


def test_digits_are_the_scans_at_four_times_the_size(digits):
    scans = load_digits()
    assert digits.sizes == {"train": 1437, "test": 360}
    small = {
        (round(image.sum()), int(label))
        for image, label in zip(scans.images, scans.target, strict=True)
    }
    for split in digits.splits.values():
        assert split.images.shape[1:] == (32, 32, 3)
        grey = split.images[..., 0]
        assert (grey[:, ::4, ::4].repeat(4, 1).repeat(4, 2) == grey).all()
        assert grey.min() == 0
        assert grey.max() == 255
        back = np.round(grey[:, ::4, ::4] * (16 / 255)).sum(axis=(1, 2))
        assert {
            (round(total), int(y)) for total, y in zip(back, split.labels, strict=True)
        } <= small


def test_digits_split_is_stratified(digits):
    total = np.bincount(load_digits().target)
    held = np.bincount(digits.splits["test"].labels)
    assert np.abs(held - 0.2 * total).max() < 1


def test_cifar10_has_its_published_mean(cifar10):
    assert cifar10.sizes == {"train": 50_000, "test": 10_000}
    assert cifar10.class_names[:3] == ("airplane", "automobile", "bird")
    # papers: the lab report prints the training mean to four digits of 0..1.
    np.testing.assert_allclose(
        np.array(cifar10.channel_mean) / 255, (0.4914, 0.4822, 0.4465), atol=6e-5
    )
    test = cifar10.splits["test"].images.mean(axis=(0, 1, 2)) / 255
    np.testing.assert_allclose(test, (0.4942, 0.4851, 0.4504), atol=6e-5)
    np.testing.assert_allclose(
        cifar10.pixel_mean, cifar10.splits["train"].images.mean(axis=0), atol=1e-3
    )


def test_statistics_equal_numpy_and_survive_the_disk(digits, tmp_path):
    pixels = digits.splits["train"].images.reshape(-1, 3) / 255
    np.testing.assert_allclose(np.array(digits.channel_std) / 255, pixels.std(axis=0), rtol=1e-5)
    statistics = digits.statistics
    vectors = np.array(statistics.eigenvectors)
    rebuilt = vectors @ np.diag(statistics.eigenvalues) @ vectors.T
    np.testing.assert_allclose(rebuilt, np.cov(pixels.T, bias=True), atol=1e-6)
    pipelines.statistics.save(statistics, tmp_path)
    again = pipelines.statistics.load(tmp_path)
    np.testing.assert_array_equal(again.pixel_mean, statistics.pixel_mean)
    assert again.channel_std == statistics.channel_std
    assert again.eigenvectors == statistics.eigenvectors
    (tmp_path / "statistics.npz").write_bytes(b"PK damaged")
    with pytest.raises(DataError, match="prepare the data again"):
        pipelines.statistics.load(tmp_path)


def test_statistics_of_large_images_take_little_memory():
    images = np.zeros((32, 512, 512, 3), np.uint8)
    images[3] = 255
    tracemalloc.start()
    found = pipelines.statistics.of_images(images)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_allclose(found.channel_mean, 255 / 32, rtol=1e-12)
    np.testing.assert_allclose(found.channel_std, 255 * (31 / 32 / 32) ** 0.5, rtol=1e-9)
    # The images themselves take 25 MB.
    assert peak < 300e6


@pytest.mark.parametrize("fits", [True, False])
def test_grey_images_are_kept_in_memory_by_what_they_take_there(tmp_path, monkeypatch, fits):
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(shape=(8, 8, 1)),
        "label": tfds.features.ClassLabel(num_classes=2),
    }
    example = {"image": np.zeros((8, 8, 1), np.uint8), "label": 1}
    tfds.disable_progress_bar()
    tfds.dataset_builders.store_as_tfds_dataset(
        name="grey",
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={
            split: [(str(i), example) for i in range(4)] for split in ("train", "test")
        },
        data_dir=tmp_path,
    )
    size = 4 * 8 * 8 * 3
    monkeypatch.setattr(sources, "MAX_BYTES_IN_MEMORY", size if fits else size - 1)
    train = pipelines.open_source("grey", data_dir=tmp_path).splits["train"]
    assert isinstance(train, ArraySplit if fits else RecordSplit)


def test_a_fingerprint_is_of_what_the_recipe_uses(digits):
    known = digits.statistics
    vectors = np.array(known.eigenvectors)
    turned = dataclasses.replace(known, eigenvectors=tuple(map(tuple, -vectors)))
    other = dataclasses.replace(known, eigenvalues=(0.3, 0.2, 0.1))
    mean = dataclasses.replace(known, pixel_mean=known.pixel_mean + 0.001)

    def line(recipe, statistics, **options):
        return pipelines.fingerprint(pipelines.recipe(recipe, **options), statistics)

    average = digits.splits["train"].images.mean()
    assert line("digits", known).startswith(f"pixel mean {average:.1f} {average:.1f} ")
    assert line("vgg", known).startswith(f"channel mean {average:.1f} ")
    # By less than the line shows.
    assert line("digits", mean) != line("digits", known)
    assert line("vgg", mean) == line("vgg", known)
    assert line("vgg", other) != line("vgg", known) == line("vgg", turned)
    assert line("digits", other) == line("digits", known)
    given = {"channel_mean": (0.5, 0.5, 0.5), "channel_std": (0.2, 0.2, 0.2)}
    assert line("inception", known, **given) == line("inception", other, **given)


@pytest.mark.slow
def test_three_classes_of_cifar10(cifar10):
    three = ("airplane", "automobile", "bird")
    chosen = pipelines.open_source("cifar10", data_dir=cifar10.place.parents[1], classes=three)
    assert chosen.sizes == {"train": 15_000, "test": 3_000}
    assert chosen.class_names == three


def test_chosen_classes_are_relabelled_in_their_order(digits):
    chosen = pipelines.open_source("digits", classes=("7", "0", "3"))
    assert chosen.class_names == ("7", "0", "3")
    for split, ours in chosen.splits.items():
        theirs = digits.splits[split]
        for label, original in enumerate((7, 0, 3)):
            np.testing.assert_array_equal(
                ours.images[ours.labels == label], theirs.images[theirs.labels == original]
            )
        assert set(ours.labels) == {0, 1, 2}


def test_validation_images_leave_the_training_images():
    whole = pipelines.open_source("digits")
    parts = pipelines.open_source("digits", validation_images=137)
    assert parts.sizes == {"train": 1300, "validation": 137, "test": 360}

    def scans(split):
        return sorted(image.tobytes() for image in split.images)

    both = scans(parts.splits["train"]) + scans(parts.splits["validation"])
    assert sorted(both) == scans(whole.splits["train"])
    again = pipelines.open_source("digits", validation_images=137)
    np.testing.assert_array_equal(
        again.splits["validation"].images, parts.splits["validation"].images
    )


def test_folder_lists_what_image_folder_lists(imagenette):
    import tensorflow_datasets as tfds

    folder = Path(imagenette.splits["train"].paths[0]).parents[2]
    builder = tfds.ImageFolder(str(folder))
    assert imagenette.class_names == tuple(builder.info.features["label"].names)
    assert imagenette.sizes == {
        "train": builder.info.splits["train"].num_examples,
        "test": builder.info.splits["val"].num_examples,
    }


def test_imagenet_has_a_thousand_classes_and_holds_out_records(imagenet):
    from pipelines.splits import hold_out

    assert imagenet.sizes == {"train": 60, "test": 40}
    assert len(imagenet.class_names) == 1000
    rest, held = hold_out(imagenet.splits["train"], 13)
    assert (len(rest), len(held)) == (47, 13)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "There is no folder"),
        ({"val/a": 1}, "no folder 'train'"),
        ({"train/a": 1, "train/b": 1}, "no folder 'val'"),
        ({"train/a": 1, "val/a": 1}, "only one class folder, 'a'"),
        ({"train/.": 1, "val/a": 1}, "no class folders"),
        ({"train/a": 0, "train/b": 0, "val/a": 1}, "train has no images"),
        ({"train/a": 1, "train/b/c": 1, "val/a": 1}, "train/b has no images"),
        ({"train/a": 1, "train/b": 1, "val/a": 0}, "val has no images"),
        ({"train/a": 1, "train/b": 1, "val/c": 1}, "has the class 'c'"),
        ({"train/a": 1, "train/b\udcfc": 1, "val/a": 1}, "train/b\\udcfc' is not in UTF-8"),
    ],
)
def test_a_bad_folder_is_refused_in_one_sentence(write_folder, counts, message):
    place = write_folder(counts)
    with pytest.raises(DataError) as error:
        pipelines.check("folder", place)
    assert message in one_sentence(error)


def test_what_a_folder_passes_over_is_told_once(write_folder, caplog):
    place = write_folder({"train/a": 1, "train/b": 2, "val/a": 1})
    for noise in ("train/a/.DS_Store", "train/a/Thumbs.db", "train/b/notes.TXT", "val/val.csv"):
        (place / noise).touch()
    pipelines.open_source("folder", data_dir=place)
    assert not caplog.messages
    write_folder({"train/b/more": 1})
    for image in ("train/a/0.webp", "train/b/1.tif", "val/beside.jpg"):
        (place / image).touch()
    source = pipelines.open_source("folder", data_dir=place)
    assert source.sizes == {"train": 3, "test": 1}
    (message,) = caplog.messages
    assert f"passed over in {place}: 4, the first is {place}/train/a/0.webp;" in message


def test_missing_data_is_reported_in_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(DataError) as error:
        pipelines.check("imagenet2012", tmp_path)
    message = one_sentence(error)
    assert f"{tmp_path}/imagenet2012/5.1.0" in message
    assert "ILSVRC2012_img_train.tar" in message
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "elsewhere"))):
        pipelines.check("imagenet2012")
    with pytest.raises(DataError) as error:
        pipelines.check("mnisst")
    assert "choose one of cifar10" in one_sentence(error)
    with pytest.raises(DataError) as error:
        pipelines.check("folder")
    one_sentence(error)


def test_a_failed_download_is_one_sentence(tmp_path, monkeypatch):
    # A proxy that refuses every connection: no download can succeed, with or without network.
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    with pytest.raises(DataError) as error:
        pipelines.open_source("cifar100", data_dir=tmp_path)
    assert "could not be downloaded" in one_sentence(error)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("1", "eleven"), "has no class 'eleven'; it has 0, 1, 2"),
        (("1", "1"), "at least two different"),
        (("1",), "at least two different"),
    ],
)
def test_wrong_classes_are_refused(classes, message):
    with pytest.raises(DataError) as error:
        pipelines.open_source("digits", classes=classes)
    assert message in one_sentence(error)


@pytest.mark.parametrize("images", [1437, -1])
def test_too_many_validation_images_are_refused(images):
    with pytest.raises(DataError) as error:
        pipelines.open_source("digits", validation_images=images)
    assert "between 1 and 1436" in one_sentence(error)


def test_arrays_keep_labels_int32(digits):
    assert digits.splits["train"].labels.dtype == np.int32
    assert tf.constant(digits.splits["train"].images).dtype == tf.uint8
