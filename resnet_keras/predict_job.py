"""--mode=predict: an export's answers about image files, as a table, a file or pictures."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf
import tqdm

from pipelines.decoding import decode
from resnet_keras.config import Config
from resnet_keras.errors import InputError
from resnet_keras.reporting.pictures import Picture, picture_grid, score
from resnet_keras.reporting.tables import table
from resnet_keras.serving import places, submission
from resnet_keras.serving import predict as serving

DONE = 0
# A grid shows so many pictures at most, none larger than so many pixels a side.
PICTURES, PIXELS = 64, 224

Answer = dict[str, Any]


def predict(config: Config) -> int:
    """Answer image files; unreadable ones are named and cost exit 2 after all others.

    The answers go to the terminal as a table or, with ``--output``, to a file as they come.
    """
    files = places.find_images(config.images)
    folder = places.find_version(config.saved_model)
    record: Callable[[Answer], str] = _json
    if config.format == "ilsvrc":
        files.sort(key=lambda file: file.name)  # the server knows no folders
        record = _submission(config.ilsvrc_ids, folder)
    ask = serving.load(folder)
    rows: list[Answer] = []
    pictured: list[Answer] = []
    every = -(-len(files) // PICTURES)  # sorted by folder, the first would be of one class
    bad = 0
    with _writer(config.output) as write:
        for index, answer in enumerate(_watched(serving.predict(ask, files), len(files))):
            write(record(answer))
            if not config.output:
                rows.append(answer)
            if "problem" in answer:
                bad += 1
                if config.output:
                    tqdm.tqdm.write(f"Not readable: {answer['file']}", file=sys.stderr)
            elif config.grid and index % every == 0:
                pictured.append(answer)
    if config.output:
        print(f"Written  {config.output}, {len(files):,} lines")
    else:
        print(_table(rows))
    if pictured:
        _draw(pictured, folder, Path(config.grid))
    if bad:
        raise InputError(
            f"{bad:,} of {len(files):,} files could not be read as JPEG or PNG images."
        )
    return DONE


def _watched(answers: Iterable[Answer], total: int) -> Iterable[Answer]:
    """Show a bar where somebody watches; a table or a message of the end takes its place."""
    return tqdm.tqdm(
        answers, total=total, unit="image", leave=False, disable=not sys.stderr.isatty()
    )


@contextlib.contextmanager
def _writer(output: str) -> Iterator[Callable[[str], Any]]:
    """Give what writes a line to the file, or to nowhere without one."""
    if not output:
        yield lambda line: None
        return
    try:
        # A file's name may be no text; JSON has escapes for it.
        with open(output, "w", encoding="utf-8", errors="backslashreplace", buffering=1) as file:
            yield lambda line: file.write(f"{line}\n")
    except OSError as error:
        raise OSError(
            f"--output={output} cannot be written to its end ({error.strerror}): make room, or "
            "name another file."
        ) from None


def _json(answer: Answer) -> str:
    return json.dumps(answer | {"file": str(answer["file"])}, ensure_ascii=False)


def _submission(ids_file: str, folder: Path) -> Callable[[Answer], str]:
    ids = submission.read_ids(Path(ids_file) if ids_file else None)
    labels = places.read_labels(folder)
    if labels is None:
        raise InputError(
            f"{folder} has no manifest.json that names its classes, which --format=ilsvrc needs: "
            "export it again with --mode=export."
        )
    submission.check_classes(labels, ids)
    return lambda answer: submission.line(answer.get("classes"), ids)


def _table(answers: list[Answer]) -> str:
    best = max((len(a["classes"]) for a in answers if "classes" in a), default=1)
    rows = []
    for answer in answers:
        if "problem" in answer:
            cells = [answer["problem"]]
        else:
            pairs = zip(answer["classes"], answer["scores"], strict=True)
            cells = [f"{name} {100 * score:.1f}" for name, score in pairs]
        rows.append([answer["file"].name, *cells, *[""] * (best - len(cells))])
    return table(["file", *[f"{i} (%)" for i in range(1, best + 1)]], rows, left=best + 1)


def _draw(answers: list[Answer], folder: Path, file: Path) -> None:
    """Draw the grid; a folder's name is the true class, where it is one."""
    classes = set(places.read_labels(folder) or ())
    pictures = []
    for answer in answers:
        name = answer["file"].absolute().parent.name
        pictures.append(
            Picture(
                _thumbnail(answer["file"]),
                answer["classes"][0],
                answer["scores"][0],
                name if name in classes else None,
            )
        )
    picture_grid(pictures).savefig(file, dpi=150)
    print(
        ", ".join(filter(None, [f"Drawn    {file}", f"{len(pictures)} pictures", score(pictures)]))
    )


def _thumbnail(file: Path) -> Any:
    """Return an image as the network sees it (EXIF ignored), not larger than PIXELS a side."""
    pixels = decode(tf.constant(file.read_bytes()), accurate=True)
    if max(pixels.shape[:2]) > PIXELS:
        size = [PIXELS, PIXELS]
        resized = tf.image.resize(pixels, size, preserve_aspect_ratio=True, antialias=True)
        pixels = tf.saturate_cast(tf.round(resized), tf.uint8)
    return pixels.numpy()
