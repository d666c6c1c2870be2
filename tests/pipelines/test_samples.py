"""A few encoded images, from memory, folders and TFRecord shards."""

import numpy as np
import tensorflow as tf

import pipelines
from pipelines.samples import encoded_samples

pytest_plugins = ["source_fixtures"]


def test_images_in_memory_come_as_png_from_first_to_last(digits):
    split = digits.splits["test"]
    samples = encoded_samples(split, 4)
    decoded = [tf.io.decode_png(sample).numpy() for sample in samples]
    # 360 images: 0, 119.67, 239.33, 359.
    np.testing.assert_array_equal(decoded, split.images[[0, 119, 239, 359]])
    assert len(encoded_samples(split, 1000)) == 360


def test_files_come_as_they_are_and_missing_ones_not_at_all(write_folder):
    write_folder({"train/cat": 1, "train/dog": 1, "val/cat": 3, "val/dog": 2})
    folder = write_folder({})
    split = pipelines.open_source("folder", data_dir=folder).splits["test"]
    files = sorted(folder.glob("val/*/*.jpg"))
    assert encoded_samples(split, 5) == [file.read_bytes() for file in files]
    files[0].unlink()
    assert encoded_samples(split, 2) == [files[-1].read_bytes()]


def test_records_come_as_they_are_stored(imagenet):
    samples = encoded_samples(imagenet.splits["test"], 3)
    assert len(samples) == 3
    assert len(set(samples)) == 3
    assert {sample[:3] for sample in samples} == {b"\xff\xd8\xff"}
    assert tf.io.decode_image(samples[0]).shape[2] == 3
