"""The official gRPC stubs and our client, spoken to a stand-in for TF Serving in its own process.

The stand-in (stand_in.py) is not TensorFlow Serving: the service and its messages are the official
ones, the C++ session is the one TensorFlow Serving runs, all between is ours.
"""

import os
import subprocess
import sys
from pathlib import Path

import grpc
import keras
import numpy as np
import pytest
import tensorflow as tf
from pictures import NAMES, png
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from resnet_keras.serving import client
from resnet_keras.serving.places import read_labels

pytest_plugins = ["export_fixtures"]

PIXELS = np.random.default_rng(1).integers(0, 256, (7, 32, 32, 3), np.uint8)
GOOD = png(PIXELS[0])


@pytest.fixture(scope="module")
def inputs():
    """Give PIXELS as the network takes them: the lab report's normalisation, written out."""
    mean = 255 * np.array([0.4914, 0.4822, 0.4465])
    std = 255 * np.array([0.2023, 0.1994, 0.2010])
    return ((PIXELS - mean) / std).astype(np.float32)


@pytest.fixture(scope="module")
def served(exported, inputs):
    """Serve the export; give what PIXELS' probabilities are, the process and its address."""
    model, _, version = exported
    assert read_labels(version) == NAMES
    logits = model(inputs, training=False).numpy()
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    assert expected.max() < 0.999  # else equal answers would say little
    script = str(Path(__file__).with_name("stand_in.py"))
    with subprocess.Popen(
        [sys.executable, script, "--name=small", f"--folder={version}"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    ) as process:
        port = process.stdout.readline().strip()
        assert port, "the stand-in did not start"
        yield expected, process, f"localhost:{port}"
        process.kill()


@pytest.fixture
def stub(served):
    with grpc.insecure_channel(served[2]) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


def _request(signature: str = "", **inputs) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "small"
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


@pytest.mark.parametrize("count", [1, 7])
def test_both_signatures_answer_over_grpc(served, stub, count):
    expected = served[0][:count]
    files = [png(pixels) for pixels in PIXELS[:count]]
    for request in (
        _request(image_bytes=files),
        _request("predict_tensor", images=PIXELS[:count].astype(np.float32)),
    ):
        reply = stub.Predict(request, timeout=60)
        assert reply.model_spec.version.value == 1
        found = tf.make_ndarray(reply.outputs["probabilities"])
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert found.dtype == np.float32
    reply = stub.Predict(_request(image_bytes=files), timeout=60)
    names = tf.make_ndarray(reply.outputs["classes"])
    ranked = np.argsort(-expected, axis=1)[:, :5]
    assert [[n.decode() for n in row] for row in names] == [[NAMES[i] for i in r] for r in ranked]
    scores = tf.make_ndarray(reply.outputs["scores"])
    np.testing.assert_allclose(scores, np.take_along_axis(expected, ranked, 1), atol=1e-5)
    (best, *_) = client.classify(stub, "small", files)
    order = np.argsort(-expected[0])[:5]
    assert [name for name, _ in best] == [NAMES[index] for index in order]
    np.testing.assert_allclose([p for _, p in best], expected[0][order], atol=1e-5)


@pytest.mark.parametrize("count", [1, 7])
def test_features_are_the_means_of_the_last_maps(exported, inputs, stub, count):
    model = exported[0]
    maps = keras.Model(model.input, model.get_layer("conv4_block1_out").output)(inputs).numpy()
    request = _request("features", images=PIXELS[:count].astype(np.float32))
    found = tf.make_ndarray(stub.Predict(request, timeout=60).outputs["features"])
    np.testing.assert_allclose(found, maps[:count].mean(axis=(1, 2)), rtol=1e-3)


def _examples(
    *files: bytes, key: str = "image/encoded"
) -> classification_pb2.ClassificationRequest:
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "small", "classify"
    for file in files:
        example = request.input.example_list.examples.add()
        example.features.feature[key].bytes_list.value.append(file)
    return request


@pytest.mark.parametrize("count", [1, 7])
def test_classify_takes_tf_examples(served, stub, count):
    expected = served[0][:count]
    reply = stub.Classify(_examples(*(png(pixels) for pixels in PIXELS[:count])), timeout=60)
    for found, probabilities in zip(reply.result.classifications, expected, strict=True):
        order = np.argsort(-probabilities)[:5]
        assert [one.label for one in found.classes] == [NAMES[index] for index in order]
        scores = [one.score for one in found.classes]
        np.testing.assert_allclose(scores, probabilities[order], atol=1e-5)


@pytest.mark.parametrize(
    "request_",
    [
        _examples(),
        _examples(b"no image"),
        _examples(GOOD, b"no image"),
        _examples(b""),
        _examples(b"\xff\xd8", key="image"),
    ],
    ids=["no example", "garbage", "one bad of two", "0 bytes", "another key"],
)
def test_examples_without_images_are_refused(served, stub, request_):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Classify(request_, timeout=60)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()
    assert served[1].poll() is None


def test_the_signatures_are_told(stub):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "small"
    reply = stub.GetModelMetadata(request, timeout=60)
    found = get_model_metadata_pb2.SignatureDefMap()
    assert reply.metadata["signature_def"].Unpack(found)
    given = {name: list(definition.inputs) for name, definition in found.signature_def.items()}
    assert given == {
        "serving_default": ["image_bytes"], "predict_tensor": ["images"], "features": ["images"],
        "classify": ["inputs"],
    }  # fmt: skip
    assert found.signature_def["classify"].method_name == "tensorflow/serving/classify"
    shape = found.signature_def["predict_tensor"].inputs["images"].tensor_shape
    assert [dimension.size for dimension in shape.dim] == [-1, 32, 32, 3]


EXAMPLE = _examples(GOOD).input.example_list.examples[0].SerializeToString()
BAD_REQUESTS = {
    "garbage": lambda: _request(image_bytes=[b"no image"]),
    "0 bytes": lambda: _request(image_bytes=[b""]),
    "one bad of two": lambda: _request(image_bytes=[GOOD, GOOD[:100]]),
    "a scalar of bytes": lambda: _request(image_bytes=GOOD),
    "a matrix of bytes": lambda: _request(image_bytes=[[GOOD]]),
    "rank 3": lambda: _request("predict_tensor", images=np.zeros((32, 32, 3), np.float32)),
    "rank 5": lambda: _request("predict_tensor", images=np.zeros((1, 1, 32, 32, 3), np.float32)),
    "rank 0": lambda: _request("predict_tensor", images=np.float32(1)),
    "another size": lambda: _request("predict_tensor", images=np.zeros((7, 31, 32, 3), np.float32)),
    "integers": lambda: _request("predict_tensor", images=np.zeros((1, 32, 32, 3), np.uint8)),
    "features of rank 3": lambda: _request("features", images=np.zeros((32, 32, 3), np.float32)),
    "features of rank 5": lambda: _request(
        "features", images=np.zeros((1, 1, 32, 32, 3), np.float32)
    ),
    "features of another size": lambda: _request(
        "features", images=np.zeros((7, 31, 32, 3), np.float32)
    ),
    "a scalar example": lambda: _request("classify", inputs=EXAMPLE),
    "a matrix of examples": lambda: _request("classify", inputs=[[EXAMPLE]]),
    "bytes that are no example": lambda: _request("classify", inputs=[b"no image", EXAMPLE]),
    "an empty example": lambda: _request("classify", inputs=[b""]),
    "another input": lambda: _request("predict_tensor", pictures=np.zeros(1, np.float32)),
    "no input": lambda: _request("predict_tensor"),
    "another signature": lambda: _request("train", image_bytes=[GOOD]),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_bad_request_is_refused_and_the_server_lives(served, stub, name):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(BAD_REQUESTS[name](), timeout=60)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()
    assert served[1].poll() is None
    assert client.classify(stub, "small", [GOOD])


def test_an_empty_batch_is_refused_or_has_an_empty_answer(stub):
    """TensorFlow answers it, unless oneDNN runs the convolutions, which then finds no depth."""
    images = np.zeros((0, 32, 32, 3), np.float32)
    code, shape = None, (0, 7)
    try:
        reply = stub.Predict(_request("predict_tensor", images=images), timeout=60)
        shape = tf.make_ndarray(reply.outputs["probabilities"]).shape
    except grpc.RpcError as error:
        code = error.code()
    assert code in (None, grpc.StatusCode.INVALID_ARGUMENT)
    assert shape == (0, 7)
    assert client.classify(stub, "small", [GOOD])


def test_another_model_is_not_found(stub):
    with pytest.raises(grpc.RpcError) as caught:
        client.classify(stub, "large", [GOOD])
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_the_client_answers_good_files_and_names_bad_ones(served, tmp_path, capsys):
    expected, _, server = served
    for name, content in (("a.png", GOOD), ("b.png", b"no image"), ("c.png", png(PIXELS[1]))):
        (tmp_path / name).write_bytes(content)
    arguments = [f"--server={server}", "--model=small", f"--images={tmp_path}/*.png"]
    assert client.main(arguments) == 2
    told = capsys.readouterr()
    lines = told.out.splitlines()
    best = int(np.argmax(expected[0]))
    assert lines[0].startswith(f"a.png  {NAMES[best]} {100 * expected[0, best]:.1f} %, ")
    assert lines[1].startswith("b.png  refused: ")
    assert lines[2].startswith(f"c.png  {NAMES[int(np.argmax(expected[1]))]} ")
    assert told.err == "resnet_keras: 1 of 3 files were not answered.\n"
    (tmp_path / "b.png").unlink()
    assert client.main(arguments) == 0


def test_the_client_says_what_is_wrong_in_one_sentence(served, tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(GOOD)
    images = f"--images={tmp_path}/a.png"
    for arguments, word in (
        ([f"--server={served[2]}", "--model=large", images], "NOT_FOUND"),
        (["--server=localhost:1", "--model=small", images], "UNAVAILABLE"),
        ([f"--server={served[2]}", "--model=small", "--images=none*"], "matches no file"),
    ):
        assert client.main(arguments) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert word in told.err
        assert len(told.err.splitlines()) == 1


def test_the_command_says_nothing_but_its_sentence(tmp_path):
    (tmp_path / "a.png").write_bytes(GOOD)
    flags = ["--server=localhost:1", "--model=small", "--images=*.png"]
    command = [sys.executable, "-m", "resnet_keras.serving.client", *flags]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("resnet_keras: localhost:1 does not answer for the model")
    assert len(result.stderr.splitlines()) == 1
