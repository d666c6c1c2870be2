"""A stand-in for TensorFlow Serving: its official gRPC service over TensorFlow's C++ session.

    python tests/serving/stand_in.py --name=NAME --folder=DIR/NAME/VERSION [--port=0]

It is not the server. It loads one version as the server does (v1 loader, tag "serve"), feeds the
C++ session without Python's own checks of shapes, and answers Predict, Classify and
GetModelMetadata with the status codes that come out of the session. No REST, polling for
versions, merging of requests or warm-up.
"""

import argparse
import os
from collections.abc import Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

CODES = {code.value[0]: code for code in grpc.StatusCode}
MAX_BYTES = 64 * 2**20  # of a request; gRPC's own limit is 4 MiB, a batch of 7 images at 224


class StandIn(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answer for one version of one model."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._version = name, int(folder.name)
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            meta = tf.compat.v1.saved_model.loader.load(self._session, ["serve"], str(folder))
        # "__saved_model_init_op" is the loader's business.
        self._signatures = {
            signature: definition
            for signature, definition in meta.signature_def.items()
            if not signature.startswith("__")
        }
        self._calls = {name: self._callable(name) for name in self._signatures}

    def _callable(self, signature: str) -> Any:
        definition = self._signatures[signature]
        options = config_pb2.CallableOptions(
            feed=[definition.inputs[name].name for name in sorted(definition.inputs)],
            fetch=[definition.outputs[name].name for name in sorted(definition.outputs)],
        )
        # Session.run would compare shapes in Python; the server leaves that to the graph.
        return self._session._make_callable_from_options(options)

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        signature = self._signature(request.model_spec, context)
        try:
            feeds = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
        except (TypeError, ValueError) as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        outputs = self._run(signature, feeds, context)
        reply = predict_pb2.PredictResponse()
        self._specify(reply.model_spec, signature)
        for name in request.output_filter or sorted(outputs):
            if name not in outputs:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"There is no output '{name}'.")
            reply.outputs[name].CopyFrom(tf.make_tensor_proto(outputs[name]))
        return reply

    def Classify(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        signature = self._signature(request.model_spec, context)
        examples = request.input.example_list.examples
        if not examples:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Input is empty.")
        serialised = np.array([example.SerializeToString() for example in examples], object)
        outputs = self._run(signature, {"inputs": serialised}, context)
        reply = classification_pb2.ClassificationResponse()
        self._specify(reply.model_spec, signature)
        for names, scores in zip(outputs["classes"], outputs["scores"], strict=True):
            found = reply.result.classifications.add()
            for name, score in zip(names, scores, strict=True):
                found.classes.add(label=name, score=score)
        return reply

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._check_model(request.model_spec, context)
        reply = get_model_metadata_pb2.GetModelMetadataResponse()
        self._specify(reply.model_spec, "")
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, definition in self._signatures.items():
            signatures.signature_def[name].CopyFrom(definition)
        reply.metadata["signature_def"].Pack(signatures)
        return reply

    def _check_model(self, spec: Any, context: grpc.ServicerContext) -> None:
        wanted = spec.version.value if spec.HasField("version") else self._version
        if spec.name != self._name or wanted != self._version:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {spec}")

    def _signature(self, spec: Any, context: grpc.ServicerContext) -> str:
        self._check_model(spec, context)
        name = spec.signature_name or "serving_default"
        if name not in self._signatures:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"There is no signature '{name}'.")
        return name

    def _run(
        self, signature: str, feeds: Mapping[str, np.ndarray], context: grpc.ServicerContext
    ) -> dict[str, np.ndarray]:
        definition = self._signatures[signature]
        if set(feeds) != set(definition.inputs):
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"The inputs are {sorted(definition.inputs)}, not {sorted(feeds)}.",
            )
        try:
            values = self._calls[signature](*(feeds[name] for name in sorted(feeds)))
        except tf.errors.OpError as error:
            context.abort(CODES[error.error_code], error.message)
        except UnicodeDecodeError:  # the session's error quotes a request that is no text
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "The request cannot be read.")
        return dict(zip(sorted(definition.outputs), values, strict=True))

    def _specify(self, spec: Any, signature: str) -> None:
        spec.name, spec.signature_name = self._name, signature
        spec.version.value = self._version


def start(name: str, folder: Path, port: int = 0) -> tuple[grpc.Server, int]:
    """Serve on loopback; return the server and its port."""
    server = grpc.server(
        futures.ThreadPoolExecutor(8),
        options=[("grpc.max_receive_message_length", MAX_BYTES), ("grpc.so_reuseport", 0)],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        StandIn(name, folder), server
    )
    bound = server.add_insecure_port(f"localhost:{port}")
    server.start()
    return server, bound


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", required=True)
    parser.add_argument("--folder", type=Path, required=True, help="of the version, a number")
    parser.add_argument("--port", type=int, default=0, help="0 is any free one")
    arguments = parser.parse_args()
    server, port = start(arguments.name, arguments.folder, arguments.port)
    print(port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
