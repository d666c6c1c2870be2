"""What an export holds, and that none is published which does not answer as its network."""

import fcntl
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from pictures import NAMES, png
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

import pipelines
from resnet_keras.errors import InputError
from resnet_keras.models import build_model
from resnet_keras.serving import checks, folding, keras_file, manifest, verify
from resnet_keras.serving.export import export
from resnet_keras.serving.places import check_writable, find_images, find_version, versions
from resnet_keras.serving.predict import load, predict

pytest_plugins = ["export_fixtures"]

# What somebody does who has Keras, and has never heard of this package.
PLAIN_KERAS = """
import sys
sys.modules["resnet_keras"] = sys.modules["pipelines"] = None
import keras
import numpy as np
for file in sys.argv[1:]:
    inputs = np.load(file + ".npy")
    model = keras.saving.load_model(file)
    assert {type(layer).__module__.partition(".")[0] for layer in model.layers} == {"keras"}
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}
    np.save(file + ".npy", model.predict(inputs, verbose=0))
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    model.fit(inputs, model.predict(inputs, verbose=0), epochs=1, verbose=0)
"""


@pytest.fixture(scope="module")
def questions(exported, tmp_path_factory):
    """Give the file of what is asked of that export before it is published."""
    model, arguments, _ = exported
    file = tmp_path_factory.mktemp("questions") / "questions.npz"
    names = ("class_names", "preprocess", "normalise", "samples")
    verify.write_questions(file, model, **{name: arguments[name] for name in names})
    return file


def test_plain_keras_opens_and_trains_the_keras_file(exported, tmp_path):
    """Local response normalisation is a network of operations inside the network."""
    model, _, version = exported
    lrn = build_model("vgg_a_lrn", include_top=False, pooling="avg", input_shape=(32, 32, 3))
    keras_file.write(lrn, tmp_path)
    shutil.move(tmp_path / "model.keras", tmp_path / "lrn.keras")
    shutil.copy(version / "model.keras", tmp_path)
    inputs = np.random.default_rng(2).normal(0, 1, (2, 32, 32, 3)).astype(np.float32)
    files = [str(tmp_path / name) for name in ("model.keras", "lrn.keras")]
    for file in files:
        np.save(f"{file}.npy", inputs)
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_KERAS, *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for file, network in zip(files, (model, lrn), strict=True):
        known = network(inputs, training=False).numpy()
        np.testing.assert_allclose(np.load(f"{file}.npy"), known, rtol=1e-4, atol=1e-5)


def test_the_manifest_tells_what_the_export_is(exported):
    _, _, version = exported
    told = json.loads((version / "manifest.json").read_text())
    assert told["labels"] == NAMES
    assert (told["step"], told["folded"], told["precision"]) == (12, True, "float32")
    # 3x3 kernels 3-16, 16-16-16, 16-32-32, 32-64-64; gamma and beta; 64-7 and 7.
    kernels = 9 * (3 * 16 + 2 * 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    channels = 3 * 16 + 2 * 32 + 2 * 64
    assert told["parameters"] == {
        "trainable": kernels + 2 * channels + 64 * 7 + 7,
        "batchnorm_statistics": 2 * channels,
    }
    assert told["preprocessing"] == {
        "recipe": "lab", "shorter_side": 32, "antialias": True, "image_size": 32,
        "mean": [125.307, 122.961, 113.8575], "std": [51.5865, 50.847, 51.255],
    }  # fmt: skip
    files = {path.relative_to(version).as_posix() for path in version.rglob("*") if path.is_file()}
    assert set(told["sha256"]) == files - {"manifest.json"}
    assert {"saved_model.pb", "model.keras"} < files
    for name, known in told["sha256"].items():
        assert hashlib.sha256((version / name).read_bytes()).hexdigest() == known


def test_a_per_pixel_mean_lies_beside_the_manifest(exported, tmp_path):
    mean = np.random.default_rng(3).uniform(0, 255, (32, 32, 3)).astype(np.float32)
    statistics = pipelines.Statistics((120.0, 115.0, 100.0), (60.0, 60.0, 60.0), pixel_mean=mean)
    facts = {"preprocessing": manifest.preprocessing(pipelines.recipe("cifar"), statistics)}
    manifest.write(exported[0], tmp_path, NAMES, facts)
    told = json.loads((tmp_path / "manifest.json").read_text())["preprocessing"]
    np.testing.assert_array_equal(np.load(tmp_path / told["pixel_mean"]), mean)
    np.testing.assert_allclose(told["mean"], mean.mean(axis=(0, 1)), rtol=1e-6)
    assert told["std"] == [1.0, 1.0, 1.0]  # the paper does not divide


def test_warm_up_requests_are_the_servers_messages(exported):
    _, _, version = exported
    file = version / "assets.extra" / "tf_serving_warmup_requests"
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record)
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
    ]
    given = {}
    for log in logs:
        if log.HasField("predict_log"):
            request = log.predict_log.request
            ((name, value),) = request.inputs.items()
            given[request.model_spec.signature_name] = (name, tf.make_ndarray(value))
        else:
            request = log.classify_log.request
            (example,) = request.input.example_list.examples
            assert request.model_spec.signature_name == "classify"
            (encoded,) = example.features.feature["image/encoded"].bytes_list.value
    loaded = tf.saved_model.load(str(version))
    assert set(given) | {"classify"} == set(loaded.signatures)
    for signature, (name, value) in given.items():
        answer = loaded.signatures[signature](**{name: tf.constant(value)})
        assert {len(output) for output in answer.values()} == {1}
    assert tf.io.decode_image(encoded).shape == (32, 32, 3)


def test_nothing_comes_before_the_check_of_a_requests_rank(exported):
    """Some kernels abort the process at a rank they do not expect."""
    _, _, version = exported
    saved = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    parts = {field.name: part for field, part in saved.meta_graphs[0].graph_def.ListFields()}
    functions = parts["library"].function
    for name in ("serving_default", "predict_tensor", "features", "classify"):
        (function,) = [
            f for f in functions if re.fullmatch(rf"__inference_{name}_\d+", f.signature.name)
        ]
        (given, *_) = [argument.name for argument in function.signature.input_arg]
        assert {node.op for node in function.node_def if given in node.input} == {"EnsureShape"}


def test_weights_are_stored_once(exported):
    model, _, version = exported
    weights = sum(4 * int(np.prod(variable.shape)) for variable in model.trainable_variables)
    # The rest of the graph takes less than the weights even of this network.
    assert weights < (version / "saved_model.pb").stat().st_size < 2 * weights
    assert sum(file.stat().st_size for file in (version / "variables").iterdir()) < 0.1 * weights


@pytest.fixture(scope="module")
def second(exported):
    """Export once more, beside leftovers, as if all matrices were large, and look for changes.

    Give the second version, and whether the first one's files are as they were.
    """
    model, arguments, version = exported
    before = {file: file.stat().st_mtime_ns for file in version.rglob("*")}
    for name in ("12", ".writing-dead/version/variables", ".writing-alive"):
        (version.parent / name).mkdir(parents=True)
    held = os.open(version.parent / ".writing-alive", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folding, "LARGE", 1)
        other = export(model, version.parent, **arguments)
    os.close(held)
    return other, {file: file.stat().st_mtime_ns for file in version.rglob("*")} == before


def test_large_matrices_are_stored_once_and_restored(exported, second):
    """As VGG's: a copy in each signature would take gigabytes. Publishing checks the answers."""
    sizes = [
        sum(file.stat().st_size for file in (folder / "variables").iterdir())
        for folder in (exported[2], second[0])
    ]
    classifier = 4 * 64 * len(NAMES)
    assert classifier <= sizes[1] - sizes[0] < 2 * classifier


def test_existing_versions_are_never_touched_but_leftovers_go(exported, second):
    folder = exported[2].parent
    version, untouched = second
    assert version.name == "13"
    assert versions(folder) == [1, 12, 13]
    assert untouched
    left = [path.name for path in folder.iterdir() if not path.name.isdecimal()]
    assert left == [".writing-alive"]


def _spoil_probabilities(values):
    values["encoded_probabilities"][3, 2] += 2e-4


def _spoil_features(values):
    values["pixels_features"][0] *= 1.01


def _spoil_labels(values):
    values["labels"] = values["labels"][::-1]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda values: None, ""),
        (_spoil_probabilities, "its probabilities differ from the network's by 0.0002"),
        (_spoil_features, "its features differ"),
        (_spoil_labels, "its classes are not those of the best probabilities"),
    ],
)
def test_an_export_that_answers_otherwise_fails(exported, questions, tmp_path, capsys, spoil, said):
    values = dict(np.load(questions))
    spoil(values)
    np.savez(tmp_path / "spoilt.npz", **values)
    code = checks.main(str(exported[2]), str(tmp_path / "spoilt.npz"), "float32")
    assert code == bool(said)
    assert said in capsys.readouterr().out.splitlines()[-1]


def _gzip(file):
    file.write_bytes(gzip.compress(file.read_bytes()))


def _leave_one_out(file):
    records = list(tf.data.TFRecordDataset(str(file)).as_numpy_iterator())
    with tf.io.TFRecordWriter(str(file)) as writer:
        for record in records[1:]:
            writer.write(record)


@pytest.mark.parametrize("spoil", [_gzip, _leave_one_out])
def test_warm_up_requests_that_would_stop_a_server_fail(
    exported, questions, tmp_path, capsys, spoil
):
    copy = tmp_path / "version"
    shutil.copytree(exported[2], copy)
    spoil(copy / "assets.extra" / "tf_serving_warmup_requests")
    assert checks.main(str(copy), str(questions), "float32") == 1
    assert "its warm-up requests" in capsys.readouterr().out.splitlines()[-2]


def test_a_wrong_folding_is_not_published(exported, tmp_path, monkeypatch):
    model, arguments, _ = exported
    right = folding._affine

    def wrong(layer, norm):
        kernel, bias = right(layer, norm)
        return kernel, bias * 1.01 if norm is not None else bias

    monkeypatch.setattr(folding, "_affine", wrong)
    with pytest.raises(
        verify.ExportError, match=r"not published: at serving_default for 1 images, .* differ"
    ):
        export(model, tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_ends_its_server_is_not_published(exported, tmp_path, monkeypatch):
    model, arguments, _ = exported
    script = tmp_path / "dies.py"
    script.write_text("import os\nprint('features for rows of numbers', flush=True)\nos.abort()\n")
    monkeypatch.setattr(checks, "__file__", str(script))
    (tmp_path / "out").mkdir()
    with pytest.raises(verify.ExportError, match="features for rows of numbers, SIGABRT ended"):
        export(model, tmp_path / "out", **arguments)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_network_that_answers_nan_is_not_published(exported, tmp_path):
    arguments = exported[1]
    model = build_model("cifar_resnet8", classes=7, classifier_activation=None)
    model.get_layer("conv1_conv").kernel.assign(np.full((3, 3, 3, 16), np.nan, np.float32))
    with pytest.raises(verify.ExportError, match="not finite"):
        export(model, tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_refused_before_anything_is_written(exported, tmp_path):
    model, arguments, _ = exported
    with pytest.raises(InputError, match="7 classes and 6 names"):
        export(model, tmp_path, **{**arguments, "class_names": NAMES[:6]})
    with pytest.raises(InputError, match="float16 is not one of: float32, bfloat16"):
        export(model, tmp_path, **arguments, precision="float16")
    grey = build_model(
        "cifar_resnet8", classes=7, input_shape=(None, None, 3), classifier_activation=None
    )
    with pytest.raises(InputError, match="one image size"):
        export(grey, tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        check_writable(tmp_path / "file" / "export", "export_dir")


def test_predict_names_unreadable_files_and_answers_the_others(exported, tmp_path):
    _, _, version = exported
    (tmp_path / "b.png").write_bytes(png(np.zeros((40, 50, 3), np.uint8)))
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
