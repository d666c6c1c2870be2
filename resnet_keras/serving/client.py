"""Ask TensorFlow Serving about image files over gRPC.

    python -m resnet_keras.serving.client --model=NAME --images='*.jpg' [--server=HOST:8500]

One request a file, so that a file that is no image fails alone. Exit codes: 0 done, 2 bad input.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from typing import Any

from resnet_keras.errors import InputError
from resnet_keras.serving.places import find_images
from resnet_keras.startup import quiet

with quiet():
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

DONE, BAD_INPUT = 0, 2


def connect(server: str) -> Any:
    """Return the stub of a server's prediction service; ``server`` is HOST:PORT, not encrypted."""
    return prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(server))


def classify(
    stub: Any, model: str, encoded: Sequence[bytes], *, timeout: float = 30
) -> list[list[tuple[str, float]]]:
    """Return the best classes of encoded images with their probabilities, best first.

    Args:
        stub: of ``connect``.
        model: name that the server knows the export by; its newest version answers.
        encoded: JPEG or PNG files. The server fails a request as a whole where one is no image.
        timeout: seconds to wait for the answer.

    Raises:
        grpc.RpcError: with the server's status code: INVALID_ARGUMENT for what is no image.
    """
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = "serving_default"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(list(encoded), dtype=tf.string))
    request.output_filter.extend(["classes", "scores"])
    reply = stub.Predict(request, timeout=timeout)
    classes, scores = (tf.make_ndarray(reply.outputs[name]) for name in ("classes", "scores"))
    return [
        [(name.decode(), float(score)) for name, score in zip(*row, strict=True)]
        for row in zip(classes, scores, strict=True)
    ]


def main(arguments: Sequence[str]) -> int:
    """Print the best classes of each file; files that are refused are named and cost exit 2."""
    parser = argparse.ArgumentParser(
        prog="python -m resnet_keras.serving.client", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--server", default="localhost:8500", help="HOST:PORT of the gRPC service")
    parser.add_argument("--model", required=True, help="the model's name on the server")
    parser.add_argument("--images", required=True, help="image files, a glob pattern in quotes")
    parser.add_argument("--timeout", type=float, default=30, help="seconds to wait for an answer")
    flags = parser.parse_args(arguments)
    try:
        return _ask(flags.server, flags.model, flags.images, flags.timeout)
    except InputError as error:
        print(f"resnet_keras: {error}", file=sys.stderr)
        return BAD_INPUT


def _ask(server: str, model: str, images: str, timeout: float) -> int:
    files = find_images(images)
    stub = connect(server)
    refused = 0
    for file in files:
        try:
            (best,) = classify(stub, model, [file.read_bytes()], timeout=timeout)
        except OSError as error:
            refused += 1
            print(f"{file.name}  cannot be read: {error.strerror}")
        except grpc.RpcError as error:
            reason = (error.details() or "").partition("\n")[0]
            if error.code() != grpc.StatusCode.INVALID_ARGUMENT:
                raise InputError(
                    f"{server} does not answer for the model '{model}' ({error.code().name}: "
                    f"{reason}): check --server, --model and that the server runs."
                ) from None
            refused += 1
            print(f"{file.name}  refused: {reason}")
        else:
            print(f"{file.name}  " + ", ".join(f"{name} {100 * p:.1f} %" for name, p in best))
    if refused:
        raise InputError(f"{refused} of {len(files)} files were not answered.")
    return DONE


if __name__ == "__main__":
    # A file's name may hold bytes that are no text: they are shown as escapes.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main(sys.argv[1:]))
