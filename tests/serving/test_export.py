"""An export is opened as TF Serving opens it: in a v1 session of a process of its own."""

import io
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import pipelines
from resnet_keras.errors import InputError
from resnet_keras.models import build_model
from resnet_keras.serving.export import export
from resnet_keras.serving.places import check_writable, find_images, find_version, versions
from resnet_keras.serving.predict import load, predict

NAMES = [f"class {index}" for index in range(7)]
SESSION = """
import json, sys
import numpy as np
import tensorflow as tf
folder, arrays, answers = sys.argv[1:]
inputs = np.load(arrays, allow_pickle=True)
with tf.compat.v1.Session(graph=tf.Graph()) as session:
    meta = tf.compat.v1.saved_model.loader.load(session, ["serve"], folder)
    outputs = {}
    for signature, given in (("predict_tensor", "images"), ("serving_default", "image_bytes")):
        definition = meta.signature_def[signature]
        for count in (1, 7):
            feed = {definition.inputs[given].name: inputs[given][:count]}
            fetch = {name: info.name for name, info in definition.outputs.items()}
            for name, value in session.run(fetch, feed).items():
                outputs[f"{signature} {count} {name}"] = value
np.savez(answers, **outputs)
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Give a small network, its preprocessing, and the folder it was exported to."""
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
    }
    version = export(model, folder, **arguments)
    return model, arguments, version


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_session_answers_like_the_keras_model(exported, tmp_path):
    model, _, version = exported
    pixels = np.random.default_rng(1).integers(0, 256, (7, 32, 32, 3), np.uint8)
    encoded = np.array([_png(image) for image in pixels], dtype=object)
    np.savez(tmp_path / "in.npz", images=pixels.astype(np.float32), image_bytes=encoded)
    arguments = [str(version), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    done = subprocess.run(
        [sys.executable, "-c", SESSION, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answers = np.load(tmp_path / "out.npz", allow_pickle=True)

    # The lab report's normalisation, written out.
    mean = 255 * np.array([0.4914, 0.4822, 0.4465])
    std = 255 * np.array([0.2023, 0.1994, 0.2010])
    logits = model(((pixels - mean) / std).astype(np.float32), training=False).numpy()
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    assert expected.max() < 0.999  # else equal answers would say little
    for count in (1, 7):
        for signature in ("predict_tensor", "serving_default"):
            got = answers[f"{signature} {count} probabilities"]
            np.testing.assert_allclose(got, expected[:count], atol=1e-5)
            assert got.dtype == np.float32
        best = np.argsort(-expected[:count], axis=1)[:, :5]
        names = [
            [name.decode() for name in row] for row in answers[f"serving_default {count} classes"]
        ]
        assert names == [[NAMES[index] for index in row] for row in best]
        scores = answers[f"serving_default {count} scores"]
        np.testing.assert_allclose(scores, np.take_along_axis(expected[:count], best, 1), atol=1e-5)


def test_weights_are_stored_once(exported):
    model, _, version = exported
    size = sum(file.stat().st_size for file in (version / "variables").iterdir())
    weights = sum(4 * int(np.prod(variable.shape)) for variable in model.variables)
    assert weights < size < 1.5 * weights


def test_existing_versions_are_never_touched(exported):
    model, arguments, version = exported
    before = {file: file.stat().st_mtime_ns for file in version.rglob("*")}
    other = version.parent / "12"
    other.mkdir()
    assert export(model, version.parent, **arguments).name == "13"
    assert versions(version.parent) == [1, 12, 13]
    assert {file: file.stat().st_mtime_ns for file in version.rglob("*")} == before
    assert not [path for path in version.parent.iterdir() if not path.name.isdecimal()]


def test_a_directory_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        check_writable(tmp_path / "file" / "export", "export_dir")


def test_predict_names_unreadable_files_and_answers_the_others(exported, tmp_path):
    _, _, version = exported
    (tmp_path / "b.png").write_bytes(_png(np.zeros((40, 50, 3), np.uint8)))
    (tmp_path / "a.png").write_bytes(b"not an image")
    (tmp_path / "c.png").write_bytes(b"")
    files = find_images(str(tmp_path / "*.png"))
    found = find_version(str(version.parent))
    answers = list(predict(load(version), files))
    assert found.name == str(max(versions(version.parent)))
    assert [answer["file"].name for answer in answers] == ["a.png", "b.png", "c.png"]
    assert "problem" in answers[0]
    assert "problem" in answers[2]
    assert answers[1]["scores"] == sorted(answers[1]["scores"], reverse=True)
    assert set(answers[1]["classes"]) <= set(NAMES)


def test_predict_refuses_what_is_no_export(tmp_path):
    with pytest.raises(InputError, match="holds no SavedModel"):
        find_version(str(tmp_path))
    with pytest.raises(InputError, match="matches no file"):
        find_images(str(tmp_path / "*.png"))
    plain = tmp_path / "plain"
    tf.saved_model.save(tf.Module(), str(plain))
    with pytest.raises(InputError, match="image_bytes"):
        load(plain)
