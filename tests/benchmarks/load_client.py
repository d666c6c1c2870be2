"""One client of bench_serve.py's load: good and bad requests for a while, then a report as JSON.

Four of five requests are good: photographs to serving_default, mostly one, sometimes four. The
same photograph must always get the same answer. The others are bad in every way there is, and must
be refused with INVALID_ARGUMENT or, for another model, NOT_FOUND.
"""

import argparse
import collections
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

TOLERANCE = 1e-4  # the batch an image is in may change its last digits


def request(model: str, signature: str = "", **inputs: object) -> predict_pb2.PredictRequest:
    made = predict_pb2.PredictRequest()
    made.model_spec.name, made.model_spec.signature_name = model, signature
    for name, value in inputs.items():
        made.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return made


def bad_requests(model: str, photo: bytes) -> list[tuple[predict_pb2.PredictRequest, str]]:
    """Return requests with the status code that each must get."""
    refused = [
        request(model, image_bytes=[b"no image"]),
        request(model, image_bytes=[b""]),
        request(model, image_bytes=[photo, photo[: len(photo) // 2]]),
        request(model, image_bytes=photo),
        request(model, "predict_tensor", images=np.zeros((224, 224, 3), np.float32)),
        request(model, "predict_tensor", images=np.zeros((1, 8, 8, 3), np.float32)),
        request(model, "predict_tensor", images=np.zeros((1, 224, 224, 3), np.uint8)),
        request(model, "predict_tensor"),
        request(model, "no_signature", image_bytes=[photo]),
    ]
    return [
        *((one, "INVALID_ARGUMENT") for one in refused),
        (request("no_model", image_bytes=[photo]), "NOT_FOUND"),
    ]


class Client:
    """Ask one server; count what it answers."""

    def __init__(self, server: str, model: str, photos: list[bytes], seed: int) -> None:
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(
            grpc.insecure_channel(server)
        )
        self._model, self._photos = model, photos
        self._random = random.Random(seed)
        self._bad = bad_requests(model, photos[0])
        self._known: dict[int, np.ndarray] = {}
        self.images = 0
        self.seconds: list[float] = []  # of good requests of one photograph
        self.refused: collections.Counter = collections.Counter()
        self.faults: list[str] = []

    def step(self) -> None:
        ask: Callable[[], None] = self._good if self._random.random() < 0.8 else self._bad_one
        ask()

    def _good(self) -> None:
        count = 4 if self._random.random() < 0.1 else 1
        chosen = [self._random.randrange(len(self._photos)) for _ in range(count)]
        made = request(self._model, image_bytes=[self._photos[index] for index in chosen])
        start = time.perf_counter()
        try:
            reply = self._stub.Predict(made, timeout=120)
        except grpc.RpcError as error:
            self.faults.append(f"good, {error.code().name}: {error.details()[:200]}")
            return
        if count == 1:
            self.seconds.append(time.perf_counter() - start)
        self.images += count
        for index, found in zip(
            chosen, tf.make_ndarray(reply.outputs["probabilities"]), strict=True
        ):
            known = self._known.setdefault(index, found)
            if not np.allclose(found, known, atol=TOLERANCE):
                self.faults.append(f"photograph {index} is answered differently")

    def _bad_one(self) -> None:
        made, expected = self._random.choice(self._bad)
        try:
            self._stub.Predict(made, timeout=120)
        except grpc.RpcError as error:
            self.refused[error.code().name] += 1
            if error.code().name != expected:
                self.faults.append(f"bad, {error.code().name}, not {expected}: {error.details()}")
        else:
            self.faults.append(f"bad, but answered, not {expected}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--photos", type=Path, required=True, help="a folder, searched for *.JPEG")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    photos = [file.read_bytes() for file in sorted(arguments.photos.rglob("*.JPEG"))[:20]]
    client = Client(arguments.server, arguments.model, photos, arguments.seed)
    start = time.monotonic()
    while time.monotonic() < start + arguments.seconds:
        client.step()
    report = {
        "images": client.images,
        "lasted": time.monotonic() - start,
        "seconds": client.seconds,
        "refused": client.refused,
        "faults": client.faults,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
