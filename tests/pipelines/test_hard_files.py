"""Files as they lie on real disks: odd ones are read, broken ones are left out and named."""

import io
import logging
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import pipelines
from pipelines import (
    DataError,
    decoding,
    first_line,
    recipe,
    test_stream,
    train_batches,
    train_stream,
)
from pipelines.order import shuffled_indices

pytest_plugins = ["source_fixtures"]


def picture(height: int = 60, width: int = 80) -> np.ndarray:
    ramp = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
    return (ramp * [1.0, 0.5, 0.25]).astype(np.uint8)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def patch_jpeg_size(data: bytes, height: int, width: int) -> bytes:
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def patch_png_size(data: bytes, height: int, width: int) -> bytes:
    return data[:16] + struct.pack(">II", width, height) + data[24:]


RGB = Image.fromarray(picture())
JPEG = encode(RGB, "JPEG", quality=95)
NOISE = encode(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)), "PNG"
)
ROTATED = Image.Exif()
ROTATED[0x0112] = 6  # "turn by 90 degrees to show"
PALETTE_BMP = encode(RGB.convert("P"), "BMP")
READABLE = {
    "png_named.JPEG": encode(RGB, "PNG"),
    "bytes_behind.png": NOISE + b"\0" * 16,
    "palette.png": encode(RGB.convert("P"), "PNG"),
    "transparent.png": encode(RGB.convert("RGBA"), "PNG"),
    "cmyk.jpg": encode(RGB.convert("CMYK"), "JPEG", quality=95),
    "grey.jpg": encode(RGB.convert("L"), "JPEG", quality=95),
    "progressive.jpg": encode(RGB, "JPEG", progressive=True, quality=95),
    "rotated.jpg": encode(RGB, "JPEG", exif=ROTATED, quality=95),
    "moving.gif": encode(RGB, "GIF", save_all=True, append_images=[RGB]),
    "windows.bmp": encode(RGB, "BMP"),
    "palette.bmp": PALETTE_BMP,
    "grey.bmp": encode(RGB.convert("L"), "BMP"),
    "one_pixel.jpg": encode(RGB.resize((1, 1)), "JPEG"),
    "strip.jpg": encode(RGB.resize((500, 5)), "JPEG"),
}
UNREADABLE = {
    "run_length.bmp": PALETTE_BMP[:30] + b"\1" + PALETTE_BMP[31:],
    "panorama.jpg": encode(RGB.resize((20000, 20)), "JPEG"),
    "panorama.png": encode(RGB.resize((20, 20000)), "PNG"),
    "truncated.jpg": JPEG[: len(JPEG) // 3],
    "header_only.jpg": JPEG[:20],
    "truncated.png": NOISE[: len(NOISE) // 2],
    "empty.jpg": b"",
    "text.jpg": b"<html>404 not found</html>",
    "bomb.jpg": patch_jpeg_size(JPEG, 30_000, 30_000),
    "bomb.png": patch_png_size(encode(RGB, "PNG"), 30_000, 30_000),
}


@pytest.mark.parametrize("name", READABLE)
def test_odd_files_are_read(name):
    expected = np.asarray(Image.open(io.BytesIO(READABLE[name])).convert("RGB"), np.int32)
    image = decoding.decode(tf.constant(READABLE[name]), accurate=True).numpy()
    assert image.shape == expected.shape
    # Different decoders round differently.
    assert np.abs(image - expected).mean() < 2


@pytest.mark.parametrize("name", UNREADABLE)
def test_broken_files_are_refused(name):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decoding.decode(tf.constant(UNREADABLE[name]), accurate=True)


def test_a_bomb_is_refused_from_its_header():
    """A complete file is refused too, and nobody waits for 900 megapixels."""
    for name in ("bomb.jpg", "bomb.png", "panorama.png"):
        with pytest.raises(tf.errors.InvalidArgumentError, match="image size refused"):
            decoding.decode(tf.constant(UNREADABLE[name]), accurate=True)


@pytest.fixture
def hard_folder(write_folder):
    folder = write_folder({"train/a": 20, "train/b": 20, "val/a": 6, "val/b": 6})
    for files in (READABLE, UNREADABLE):
        for name, data in files.items():
            (folder / "train" / "a" / name).write_bytes(data)
            (folder / "val" / "b" / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("recipe_name", ["imagenet", "cifar", "inception"])
def test_broken_images_keep_their_place_in_training(hard_folder, recipe_name, caplog):
    source = pipelines.open_source("folder", data_dir=hard_folder)
    images = source.sizes["train"]
    assert images == 40 + len(READABLE) + len(UNREADABLE)
    stream = train_stream(source, recipe(recipe_name, image_size=32), batch_size=4, seed=1)
    with caplog.at_level(logging.WARNING):
        batches = [next(stream) for _ in range(images // 4)]
    keys = shuffled_indices(images, 1, 0, (0, 1)).take(images // 4 * 4)
    paths = [source.splits["train"].paths[int(index)] for _, index in keys]
    labels = [source.splits["train"].labels[int(index)] for _, index in keys]
    bad = np.array([path.rsplit("/", 1)[1] in UNREADABLE for path in paths])
    weights = np.concatenate([batch["weight"] for batch in batches])
    np.testing.assert_array_equal(weights, 1.0 - bad)
    shown = np.concatenate([batch["label"] for batch in batches])
    np.testing.assert_array_equal(shown[~bad], np.array(labels)[~bad])
    pixels = np.concatenate([batch["image"] for batch in batches])
    assert np.isfinite(pixels).all()
    assert stream.position == images // 4 * 4
    # Each broken image is named once; read-ahead may already have met the others.
    named = {path.rsplit("/", 1)[1] for path in stream.bad_images.names}
    assert {path.rsplit("/", 1)[1] for path, b in zip(paths, bad, strict=True) if b} <= named
    assert named <= set(UNREADABLE)
    assert len(caplog.records) == len(stream.bad_images.names)


def test_guarded_and_plain_streams_show_the_same(imagenette):
    chosen = recipe("imagenet", image_size=32)
    noted = []
    for plain, guarded in zip(
        train_batches(imagenette, chosen, batch_size=30, seed=4).take(3),
        train_batches(imagenette, chosen, batch_size=30, seed=4, on_bad=noted.append).take(3),
        strict=True,
    ):
        for key in ("image", "label", "weight"):
            np.testing.assert_array_equal(plain[key], guarded[key])
    assert not noted


def test_testing_leaves_broken_images_out_and_names_them(hard_folder):
    source = pipelines.open_source("folder", data_dir=hard_folder)
    named = []
    stream = test_stream(source, recipe("imagenet", image_size=32), batch_size=5, log=named.append)
    weights = np.concatenate([batch["weight"] for batch in stream])
    assert weights.sum() == 12 + len(READABLE)
    assert {name.rsplit("/", 1)[1] for name in named} == set(UNREADABLE)
    assert len(named) == len(UNREADABLE)


def test_too_many_broken_images_stop_the_run(write_folder):
    folder = write_folder({"train/a": 15, "train/b": 15, "val/a": 1, "val/b": 1})
    for number in range(11):
        (folder / "train" / "b" / f"{number:03d}.jpg").write_bytes(b"broken")
    source = pipelines.open_source("folder", data_dir=folder)
    chosen = recipe("imagenet", image_size=32)

    def epoch(**options):
        stream = train_stream(source, chosen, batch_size=5, seed=1, log=print, **options)
        for _ in range(6):
            next(stream)

    with pytest.raises(DataError) as error:
        epoch()
    assert "of 30 images cannot be read, and 10 are allowed" in str(error.value)
    assert "\n" not in str(error.value)
    epoch(max_bad_fraction=0.5)


def test_a_file_that_vanished_is_left_out(write_folder):
    folder = write_folder({"train/a": 5, "train/b": 5, "val/a": 1, "val/b": 1})
    source = pipelines.open_source("folder", data_dir=folder)
    (folder / "train" / "a" / "003.jpg").unlink()
    stream = train_stream(source, recipe("vgg", image_size=32), batch_size=10, seed=1, log=print)
    assert next(stream)["weight"].numpy().sum() == 9
    assert [name.rsplit("/", 1)[1] for name in stream.bad_images.names] == ["003.jpg"]


def test_file_names_that_are_no_text_are_read_and_told(write_folder):
    folder = write_folder({"train/a": 5, "train/b": 5, "val/a": 1, "val/b": 1})
    (folder / "train/a/003.jpg").rename(os.fsdecode(bytes(folder / "train/a") + b"/f\xfcr.jpg"))
    broken = os.fsdecode(bytes(folder / "train/b") + b"/b\xf6se.jpg")
    Path(broken).write_bytes(b"broken")
    source = pipelines.open_source("folder", data_dir=folder)
    stream = train_stream(source, recipe("vgg", image_size=32), batch_size=11, seed=1, log=print)
    assert next(stream)["weight"].numpy().sum() == 10
    assert list(stream.bad_images.names) == [broken]


def test_of_several_errors_of_a_graph_the_first_reason_is_told():
    text = (
        "Graph execution error:\n\n"
        "Detected at node IteratorGetNext defined at (most recent call last):\n"
        '  File "main.py", line 8, in <module>\n\n'
        "2 root error(s) found.\n"
        "  (0) DATA_LOSS:  corrupted record at 7\n\t [[{{node IteratorGetNext}}]]\n"
        "  (1) CANCELLED:  the other went first\n0 successful operations."
    )
    told = first_line(tf.errors.DataLossError(None, None, text))
    assert told == "DataLossError: (0) DATA_LOSS:  corrupted record at 7"


def test_a_distributed_stream_is_guarded_too(write_folder):
    folder = write_folder({"train/a": 9, "train/b": 9, "val/a": 1, "val/b": 1})
    (folder / "train" / "b" / "004.jpg").write_bytes(b"broken")
    source = pipelines.open_source("folder", data_dir=folder)
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    stream = train_stream(
        source,
        recipe("vgg", image_size=32),
        batch_size=6,
        seed=1,
        distribute=strategy.experimental_distribute_dataset,
        log=print,
    )
    weights = [
        strategy.experimental_local_results(next(stream)["weight"])[0].numpy() for _ in range(3)
    ]
    assert np.sum(weights) == 17
    assert stream.position == 18


def test_what_a_resumed_run_has_told_before_is_counted_but_not_told_again():
    told: list[str] = []
    bad = pipelines.BadImages(100, 0.0, told.append, known=[f"{i}.jpg" for i in range(10)])
    bad.add("3.jpg")
    bad.check()
    assert not told
    bad.add("new.jpg")
    assert told == ["new.jpg"]
    with pytest.raises(pipelines.DataError, match="11 of 100 images"):
        bad.check()
