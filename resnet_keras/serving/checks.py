"""What an export must stand before it is published.

A script for a process of its own, because a bad request may end it, and without this package,
because TF Serving has none: it loads the version as the server does, in a v1 session. It reads its
arguments, those of `main`, as a JSON list from standard input, and prints each check before it is
made; with exit code 1, the last line says what failed.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.apis import prediction_log_pb2

BATCH = 7
# The largest difference of a probability, and of a feature as a part of the largest one. bfloat16
# has 8 significant bits, and every layer rounds.
BOUNDS = {"float32": (1e-4, 1e-3), "bfloat16": (0.1, 0.1)}
# Share of images with the same best class, among those where it leads by more than MARGIN.
SAME_BEST, MARGIN = 0.9, 0.02
OUTPUTS = {
    "serving_default": {"probabilities": tf.float32, "classes": tf.string, "scores": tf.float32},
    "predict_tensor": {"probabilities": tf.float32},
    "features": {"features": tf.float32},
    "classify": {"classes": tf.string, "scores": tf.float32},
}
# An error may quote the request, and then is no text that Python can read.
REFUSED = (tf.errors.OpError, UnicodeDecodeError)
WARMUP = "assets.extra/tf_serving_warmup_requests"


class Failed(Exception):
    """Say which check failed and how, as the rest of a sentence."""


class Server:
    """Answer from a SavedModel as TF Serving does: v1 loader, C++ session, no Python in between."""

    def __init__(self, folder: str) -> None:
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph)
        with graph.as_default():
            loaded = tf.compat.v1.saved_model.loader.load(self._session, ["serve"], folder)
        self.signatures = dict(loaded.signature_def)
        self._calls: dict[str, Any] = {}

    def ask(self, signature: str, value: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs for a value of the signature's only input."""
        definition = self.signatures[signature]
        names = sorted(definition.outputs)
        if signature not in self._calls:
            (given,) = definition.inputs.values()
            fetch = [definition.outputs[name].name for name in names]
            # Session.run would refuse wrong shapes itself, before they reach the graph.
            self._calls[signature] = self._session._make_callable_from_options(
                config_pb2.CallableOptions(feed=[given.name], fetch=fetch)
            )
        return dict(zip(names, self._calls[signature](value), strict=True))


def check(folder: str, questions: dict[str, np.ndarray], precision: str) -> None:
    """Make all checks.

    Args:
        folder: of the version.
        questions: ``encoded`` bytes [N], ``pixels`` float32 [M, H, W, 3] in 0..255, and what the
            network answers: ``encoded_probabilities``, ``pixels_probabilities``,
            ``pixels_features``, ``labels``; N and M are at least BATCH.
        precision: a key of BOUNDS.

    Raises:
        Failed: at the first check that fails.
    """
    _tell("loading it in a session")
    server = Server(folder)
    _tell("the form of its signatures")
    _check_form(server)
    probabilities: dict[int, np.ndarray] = {}  # of serving_default, by the size of the batch
    for signature, inputs, outputs in _good_requests(questions):
        for size in (1, BATCH):
            _tell(f"{signature} for {size} images")
            answer = server.ask(signature, inputs[:size])
            _check_answer(answer, {k: v[:size] for k, v in outputs.items()}, precision)
            if signature == "serving_default":
                probabilities[size] = answer["probabilities"]
            if "classes" in answer:
                _check_classes(answer, probabilities[size], questions["labels"])
    _tell("serving_default for all images")
    _check_all(server, questions, precision)
    for signature, what, value in _bad_requests(questions):
        _tell(f"{signature} for {what}")
        try:
            server.ask(signature, value)
        except REFUSED:
            continue
        raise Failed(f"{signature} answered {what} as if that were a request")
    for signature, inputs, _ in _good_requests(questions):
        _tell(f"{signature} for no images")
        try:
            answer = server.ask(signature, inputs[:0])
        except REFUSED:
            continue
        if any(len(value) for value in answer.values()):
            raise Failed(f"{signature} had an answer for no images")
    _tell("a good request after bad ones")
    after = server.ask("serving_default", questions["encoded"][:BATCH])
    if not np.allclose(probabilities[BATCH], after["probabilities"], rtol=0, atol=1e-6):
        raise Failed("after bad requests, good ones are answered otherwise than before")
    _tell("its warm-up requests")
    _replay(server, folder)


def _tell(step: str) -> None:
    print(step, flush=True)


def _check_form(server: Server) -> None:
    """Check the signatures' names and outputs: float32 or string, the batch first."""
    for signature, outputs in OUTPUTS.items():
        definition = server.signatures.get(signature)
        if definition is None:
            raise Failed(f"there is no signature {signature}")
        found = {name: tf.dtypes.as_dtype(o.dtype) for name, o in definition.outputs.items()}
        if found != outputs:
            raise Failed(f"{signature} has the outputs {found}")
        for name, output in definition.outputs.items():
            sides = [side.size for side in output.tensor_shape.dim]
            if len(sides) != 2 or sides[0] != -1:
                raise Failed(f"{signature} has {name} of shape {sides}, not one row an image")


def _good_requests(
    questions: dict[str, np.ndarray],
) -> Iterator[tuple[str, np.ndarray, dict[str, np.ndarray]]]:
    """Yield signature, value and the outputs that are known to the last digits."""
    encoded, pixels = questions["encoded"], questions["pixels"]
    yield "serving_default", encoded, {"probabilities": questions["encoded_probabilities"]}
    yield "classify", _examples(encoded), {}
    yield "predict_tensor", pixels, {"probabilities": questions["pixels_probabilities"]}
    yield "features", pixels, {"features": questions["pixels_features"]}


def _bad_requests(questions: dict[str, np.ndarray]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield signature, what is wrong with the value, and the value."""
    encoded, pixels = questions["encoded"], questions["pixels"]
    for signature in ("predict_tensor", "features"):
        yield signature, "an image without its batch", pixels[0]
        yield signature, "images in a batch of batches", pixels[None]
        yield signature, "a single number", pixels[0, 0, 0, 0]
        yield signature, "rows of numbers", pixels.reshape(len(pixels), -1)
        yield signature, "images of another height", pixels[:, 1:]
        yield signature, "images of four channels", np.repeat(pixels, 2, axis=3)[..., :4]
        yield signature, "images as whole numbers", pixels.astype(np.int32)
        yield signature, "strings for images", encoded[:1]
    for signature, form in (("serving_default", np.asarray), ("classify", _examples)):
        good = form(encoded[:1])
        yield signature, "a string without its batch", good.reshape(())
        yield signature, "strings in a batch of batches", good.reshape(1, 1)
        yield signature, "numbers for strings", pixels[:1, 0, 0, 0]
        for what, value in (
            ("an empty string", b""),
            ("bytes that are no image", b"\x89PNG no image"),
            ("a JPEG's first bytes and no more", b"\xff\xd8\xff\xe0"),
            ("half of an image", encoded[0][: len(encoded[0]) // 2]),
        ):
            yield signature, what, form(np.array([value], object))
            mixed = np.array([encoded[0], value], object)
            yield signature, f"{what} beside a good image", form(mixed)
    for what, example in (
        ("an empty string for an example", b""),
        ("bytes that are no example", b"\xff\xff\xff"),
        ("an example of another key", _example("image", encoded[0])),
    ):
        yield "classify", what, np.array([example], object)


def _examples(encoded: np.ndarray) -> np.ndarray:
    return np.array([_example("image/encoded", image) for image in encoded], object)


def _example(key: str, value: bytes) -> bytes:
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    return tf.train.Example(features=tf.train.Features(feature={key: feature})).SerializeToString()


def _check_answer(
    answer: dict[str, np.ndarray], expected: dict[str, np.ndarray], precision: str
) -> None:
    for name, value in expected.items():
        got = answer[name]
        if got.shape != value.shape or not np.isfinite(got).all():
            raise Failed(f"its {name} are not finite numbers of shape {value.shape}")
        by_feature = name == "features"
        bound = BOUNDS[precision][by_feature]
        scale = np.abs(value).max() or 1.0 if by_feature else 1.0
        difference = float(np.abs(got - value).max() / scale)
        if difference > bound:
            raise Failed(
                f"its {name} differ from the network's by {difference:.2g}"
                f"{' of the largest' * by_feature}, where {bound:g} is allowed in {precision}"
            )


def _check_classes(
    answer: dict[str, np.ndarray], probabilities: np.ndarray, labels: np.ndarray
) -> None:
    """Check the best classes and their scores against the export's own probabilities."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    names = np.array([label.encode() for label in labels], object)[order]
    if answer["classes"].shape != names.shape or (answer["classes"] != names).any():
        raise Failed("its classes are not those of the best probabilities")
    if np.abs(answer["scores"] - np.take_along_axis(probabilities, order, axis=1)).max() > 1e-6:
        raise Failed("its scores are not the best probabilities")


def _check_all(server: Server, questions: dict[str, np.ndarray], precision: str) -> None:
    """Check probabilities and best classes of all images there are."""
    encoded, known = questions["encoded"], questions["encoded_probabilities"]
    batches = [encoded[start : start + BATCH] for start in range(0, len(encoded), BATCH)]
    answers = [server.ask("serving_default", batch)["probabilities"] for batch in batches]
    own = np.concatenate(answers)
    _check_answer({"probabilities": own}, {"probabilities": known}, precision)
    best = np.sort(known, axis=1)
    decided = best[:, -1] - (best[:, -2] if known.shape[1] > 1 else 0) > MARGIN
    same = (known.argmax(axis=1) == own.argmax(axis=1))[decided]
    if same.size and same.mean() < SAME_BEST:
        raise Failed(
            f"its best class is the network's for {same.sum()} of {same.size} images, where "
            f"{SAME_BEST:.0%} are needed"
        )


def _replay(server: Server, folder: str) -> None:
    """Send the warm-up requests, as the server does with them before it serves."""
    asked = set()
    for record in tf.data.TFRecordDataset(f"{folder}/{WARMUP}").as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        if log.WhichOneof("log_type") == "classify_log":
            request = log.classify_log.request
            examples = request.input.example_list.examples
            value = np.array([example.SerializeToString() for example in examples], object)
        else:
            request = log.predict_log.request
            (given,) = server.signatures[request.model_spec.signature_name].inputs
            value = tf.make_ndarray(request.inputs[given])
        server.ask(request.model_spec.signature_name, value)
        asked.add(request.model_spec.signature_name)
    if asked != set(OUTPUTS):
        raise Failed(f"there are warm-up requests for {', '.join(sorted(asked)) or 'nothing'} only")


def main(folder: str, questions: str, precision: str) -> int:
    """Check a version; return the exit code."""
    loaded = dict(np.load(questions))
    parts = np.split(loaded["encoded_bytes"], loaded["encoded_ends"][:-1])
    encoded = [part.tobytes() for part in parts]
    try:
        check(folder, {**loaded, "encoded": np.array(encoded, object)}, precision)
    except Failed as failure:
        _tell(str(failure))
        return 1
    except Exception as error:  # whatever a version that is broken may raise
        lines = str(error).strip().splitlines() or [""]
        _tell(f"this step ended with {type(error).__name__}: {lines[0][:300].rstrip('.')}")
        return 1
    return 0


if __name__ == "__main__":
    asked = sys.stdin.readline()  # nothing, where the exporter has ended
    sys.exit(main(*json.loads(asked)) if asked else 1)
