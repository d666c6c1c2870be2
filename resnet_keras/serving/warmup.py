"""Requests that TF Serving answers for itself before users do: a record for each signature."""

from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, predict_pb2, prediction_log_pb2

from resnet_keras.serving.signatures import EXAMPLE_KEY

PLACE = Path("assets.extra", "tf_serving_warmup_requests")  # where TF Serving looks for it


def write(folder: Path, shape: tuple[int, int, int]) -> None:
    """Write a request of one image for each signature, an uncompressed TFRecord.

    The image is drawn: an export does not carry pictures of the data set.

    Args:
        folder: of the version.
        shape: height, width and channels of the network's input.
    """
    image = picture(0, shape)
    encoded = tf.io.encode_jpeg(image).numpy()
    pixels = image.astype(np.float32)
    logs = [
        _predict("serving_default", "image_bytes", np.array([encoded], object)),
        _predict("predict_tensor", "images", pixels[None]),
        _predict("features", "images", pixels[None]),
        _classify(encoded),
    ]
    (folder / PLACE).parent.mkdir()
    with tf.io.TFRecordWriter(str(folder / PLACE)) as writer:
        for log in logs:
            writer.write(log.SerializeToString())


def picture(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Return a picture of soft random colours, uint8 of that shape."""
    coarse = np.random.default_rng(seed).uniform(0, 255, (4, 4, shape[2]))
    return np.round(tf.image.resize(coarse, shape[:2], "bilinear").numpy()).astype(np.uint8)


def _predict(signature: str, name: str, value: np.ndarray) -> prediction_log_pb2.PredictionLog:
    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = signature
    request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return prediction_log_pb2.PredictionLog(
        predict_log=prediction_log_pb2.PredictLog(request=request)
    )


def _classify(encoded: bytes) -> prediction_log_pb2.PredictionLog:
    request = classification_pb2.ClassificationRequest()
    request.model_spec.signature_name = "classify"
    example = request.input.example_list.examples.add()
    example.features.feature[EXAMPLE_KEY].bytes_list.value.append(encoded)
    return prediction_log_pb2.PredictionLog(
        classify_log=prediction_log_pb2.ClassifyLog(request=request)
    )
