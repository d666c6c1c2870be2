"""--mode=predict: what it prints, writes and draws, from an export that knows colours by heart.

The export is a graph of one line: the class whose colour an image's first pixel has most of.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from resnet_keras import command_line, main, predict_job, validation
from resnet_keras.errors import InputError
from resnet_keras.reporting.pictures import Picture, picture_grid
from resnet_keras.serving import submission

COLOURS = {"red": (200, 40, 15), "green": (40, 200, 15), "blue": (40, 15, 200)}
# The development kit's numbers of the first three: public facts.
TENCH, DUMBBELL, KIT_FOX = "n01440764", "n03255030", "n02119789"
IDS = {TENCH: 449, DUMBBELL: 1000, KIT_FOX: 1}


def _export(folder: Path, names: list[str]) -> Path:
    """Export a function of our signature; pixel (r, g, b) is answered with r, g and b's shares."""

    def shares(encoded: tf.Tensor) -> tf.Tensor:
        pixel = tf.cast(tf.io.decode_png(encoded, channels=3)[0, 0], tf.float32)
        return pixel / tf.reduce_sum(pixel)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "image_bytes")])
    def serving_default(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        spec = tf.TensorSpec((3,), tf.float32)
        probabilities = tf.map_fn(shares, image_bytes, fn_output_signature=spec)
        scores, indices = tf.math.top_k(probabilities, 3)
        return {"classes": tf.gather(tf.constant(names), indices), "scores": scores}

    module = tf.Module()
    module.answer = serving_default
    version = folder / "1"
    tf.saved_model.save(module, str(version), {"serving_default": serving_default})
    (version / "manifest.json").write_text(json.dumps({"labels": names}))
    return folder


@pytest.fixture(scope="module")
def colours(tmp_path_factory) -> Path:
    return _export(tmp_path_factory.mktemp("exports") / "colours", list(COLOURS))


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory) -> Path:
    return _export(tmp_path_factory.mktemp("exports") / "wordnet", list(IDS))


@pytest.fixture
def images(tmp_path) -> Path:
    """Give pictures in folders by their names' first word; one lies in the wrong folder."""
    folder = tmp_path / "images"
    for place, colour, size in (
        ("red", "red", (300, 900)),
        ("green", "green", (20, 10)),
        ("green", "red", (32, 32)),
        ("elsewhere", "blue", (8, 8)),
    ):
        (folder / place).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, COLOURS[colour]).save(folder / place / f"{colour}.png")
    return folder


def _predict(saved_model: Path, images: Path, *flags: str) -> int:
    return main.main(
        ["--mode=predict", f"--saved_model={saved_model}", f"--images={images}/**", *flags]
    )


def test_unreadable_files_are_named_and_the_others_answered(colours, images, tmp_path, capsys):
    (images / "green/empty.png").write_bytes(b"")
    (images / "red/text.png").write_text("not an image")
    output = tmp_path / "new/answers.jsonl"
    assert _predict(colours, images, f"--output={output}") == 2
    told = capsys.readouterr()
    assert told.err.splitlines() == [
        f"Not readable: {images}/green/empty.png",
        f"Not readable: {images}/red/text.png",
        "resnet_keras: 2 of 6 files could not be read as JPEG or PNG images.",
    ]
    found = [json.loads(line) for line in output.read_text().splitlines()]
    names = ["elsewhere/blue", "green/empty", "green/green", "green/red", "red/red", "red/text"]
    assert [record["file"] for record in found] == [f"{images}/{name}.png" for name in names]
    good = [record for record in found if "problem" not in record]
    assert [record["classes"][0] for record in good] == ["blue", "green", "red", "red"]
    # 200, 40 and 15 of 255.
    assert good[0]["classes"] == ["blue", "red", "green"]
    np.testing.assert_allclose(good[0]["scores"], [200 / 255, 40 / 255, 15 / 255], rtol=1e-6)

    assert _predict(colours, images) == 2
    lines = capsys.readouterr().out.splitlines()[2:]
    assert lines[0].split() == ["blue.png", "blue", "78.4", "red", "15.7", "green", "5.9"]
    assert "not a readable" in lines[1]


def test_a_name_that_is_no_text_costs_no_answer(colours, tmp_path):
    """Older file systems have Latin-1; the answers are written as they come."""
    (tmp_path / "images").mkdir()
    for name in (b"f\xfcr", "für".encode()):
        file = os.fsencode(tmp_path / "images") + b"/" + name + b".png"
        Image.new("RGB", (8, 8), COLOURS["red"]).save(os.fsdecode(file))
    command = [sys.executable, "-m", "resnet_keras.main", "--mode=predict",
               f"--saved_model={colours}", "--images=images/*"]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    assert [line.split()[:2] for line in done.stdout.decode().splitlines()[2:]] == [
        ["für.png", "red"],
        [r"f\udcfcr.png", "red"],
    ]
    subprocess.run([*command, "--output=answers.jsonl"], cwd=tmp_path, check=True)
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    files = [Path(json.loads(line)["file"]) for line in lines]
    assert {os.fsencode(file.name) for file in files} == {b"f\xfcr.png", "für.png".encode()}


def test_a_full_disk_is_one_sentence(colours, images, capsys):
    assert _predict(colours, images, "--output=/dev/full") == 1
    told = capsys.readouterr().err
    assert told.startswith(
        "resnet_keras: --output=/dev/full cannot be written to its end (No space"
    )
    assert len(told.splitlines()) == 1


def test_answers_do_not_depend_on_the_batch(colours, images):
    (images / "text.png").write_text("not an image")
    ask = predict_job.serving.load(colours / "1")
    files = sorted(images.rglob("*.png"))
    answers = [list(predict_job.serving.predict(ask, files, batch_size=n)) for n in (1, 2, 64)]
    assert answers[0] == answers[1] == answers[2]
    assert [answer["file"] for answer in answers[0]] == files


def test_a_submission_has_the_development_kits_numbers_by_file_name(wordnet, tmp_path):
    """ILSVRC2012's readme: one line an image, in alphabetical order, the most confident first."""
    for place, name, colour in (("b", "1", "blue"), ("a", "2", "green"), ("a", "3", "red")):
        (tmp_path / place).mkdir(exist_ok=True)
        picture = Image.new("RGB", (8, 8), COLOURS[colour])
        picture.save(tmp_path / place / f"ILSVRC2012_test_0000000{name}.png")
    (tmp_path / "a/ILSVRC2012_test_00000004.png").write_bytes(b"damaged")
    output = tmp_path / "submission.txt"
    flags = ["--format=ilsvrc", f"--output={output}"]
    assert _predict(wordnet, tmp_path / "[ab]", *flags) == 2
    # The classes' places in the export are red, green and blue.
    assert output.read_text() == "1 449 1000\n1000 449 1\n449 1000 1\n0 0 0 0 0\n"


def test_the_numbers_are_those_of_the_development_kit(tmp_path):
    ids = submission.read_ids(None)
    assert {name: ids[name] for name in IDS} == IDS
    # Sea snake, as those who mixed up the two orders noticed: 65 of the sorted, 490 of the kit's.
    assert ids["n01751748"] == 490
    assert sorted(ids).index("n01751748") == 65

    from scipy.io import savemat

    names = list(ids)
    parents = ["n00001740"]  # as in the kit, above 1,000
    savemat(
        tmp_path / "meta.mat",
        {
            "synsets": np.array(
                [(i, name) for i, name in enumerate(names + parents, 1)],
                [("ILSVRC2012_ID", "O"), ("WNID", "O")],
            )
        },
    )
    (tmp_path / "map_clsloc.txt").write_text(
        "".join(f"{name} {number} some_name\n" for name, number in ids.items())
    )
    for file in ("meta.mat", "map_clsloc.txt"):
        assert submission.read_ids(tmp_path / file) == ids


@pytest.mark.parametrize("content", ["", "n01440764\n", "n01440764 first tench\n", "n0 1 tench\n"])
def test_what_numbers_no_classes_is_refused(tmp_path, content):
    (tmp_path / "map.txt").write_text(content)
    with pytest.raises(InputError, match=r"map_clsloc\.txt"):
        submission.read_ids(tmp_path / "map.txt")
    with pytest.raises(InputError, match=r"meta\.mat"):
        submission.read_ids(tmp_path / "none.mat")


def test_a_submission_needs_ilsvrcs_classes(colours, images, tmp_path, capsys):
    flags = ["--format=ilsvrc", f"--output={tmp_path}/submission.txt"]
    assert _predict(colours, images, *flags) == 2
    assert "has the class 'red'" in capsys.readouterr().err
    assert not (tmp_path / "submission.txt").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [(["--format=ilsvrc"], "--output"), (["--format=csv"], "jsonl, ilsvrc"),
     (["--grid=grid"], ".png"), (["--grid=image.bmp"], ".png"),
     (["--output={tmp}"], "cannot be written"), (["--grid={tmp}/file/grid.png"], "cannot be")],
)  # fmt: skip
def test_places_and_formats_are_checked_before_tensorflow(tmp_path, colours, flags, told):
    (tmp_path / "file").write_text("")
    given = [flag.format(tmp=tmp_path) for flag in flags]
    places = [f"--saved_model={colours}", f"--images={tmp_path}/file"]
    with pytest.raises(InputError, match=told.replace(".", r"\.")):
        validation.check_places(command_line.parse(["--mode=predict", *places, *given]))


def test_a_grid_is_green_where_right_and_red_where_wrong(colours, images, tmp_path, capsys):
    grid = tmp_path / "grid.png"
    assert _predict(colours, images, f"--grid={grid}") == 0
    # The fourth lies in a folder that has no class's name.
    assert f"Drawn    {grid}, 4 pictures, 2 of 3 right\n" in capsys.readouterr().out
    # The pictures' own colours, and matplotlib's tab:green and tab:red in the captions.
    assert all(_pixels(grid, colour) > 500 for colour in COLOURS.values())
    assert _pixels(grid, (44, 160, 44)) > 20
    assert _pixels(grid, (214, 39, 40)) > 20


def _pixels(grid: Path, colour: tuple[int, ...]) -> int:
    """Count the pixels of a colour in a drawing."""
    drawn = matplotlib.image.imread(grid)[..., :3]
    return int(np.all(np.abs(drawn - np.array(colour) / 255) < 0.02, axis=-1).sum())


def test_a_grid_of_many_pictures_shows_some_of_each_folder(colours, tmp_path, capsys):
    for colour in ("red", "green"):
        (tmp_path / "many" / colour).mkdir(parents=True)
        for index in range(33):
            file = tmp_path / "many" / colour / f"{index}.png"
            Image.new("RGB", (8, 8), COLOURS[colour]).save(file)
    grid = tmp_path / "grid.png"
    assert _predict(colours, tmp_path / "many", f"--grid={grid}") == 0
    assert ", 33 pictures, 33 of 33 right\n" in capsys.readouterr().out
    assert _pixels(grid, COLOURS["red"]) > 1000
    assert _pixels(grid, COLOURS["green"]) > 1000


def test_captions_say_what_is_predicted_and_what_is_true():
    square = np.zeros((4, 4, 3), np.uint8)
    figure = picture_grid(
        [
            Picture(square, "cat", 0.876, "cat"),
            Picture(square, "a$b$c", 0.5, "dog"),
            Picture(square, "bird", 0.25),
            Picture(square, "a_name_that_is_far_too_long_for_this", 1.0),
        ],
        columns=3,
    )
    titles = [axes.title for axes in figure.axes]
    assert [title.get_text() for title in titles] == [
        "cat (88 %)", "a$b$c (50 %)\ntrue: dog", "bird (25 %)", "a_name_that_is_fa… (100 %)", "",
        "",
    ]  # fmt: skip
    assert [title.get_color() for title in titles[:3]] == ["tab:green", "tab:red", "black"]
    assert figure.get_suptitle() == "1 of 2 right"
