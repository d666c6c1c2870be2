"""Evaluate some times in one process and print where the time went, a JSON object a line.

opening: seconds until the first batch is there. waiting: for the other batches. batches: in the
network. end: from the last batch's answers until the evaluation has returned and its input is
torn down.
"""

import argparse
import gc
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from steps_ours import build

import pipelines
from resnet_keras.evaluation.metrics import make_evaluate
from resnet_keras.training.strategy import distribute


class Watched:
    """Iterate over batches and note when each was asked for and given."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self._iterator = iter(batches)
        self.asked: list[float] = []
        self.given: list[float] = []

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self.asked.append(time.perf_counter())
        batch = next(self._iterator)
        self.given.append(time.perf_counter())
        return batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--recipe", default="imagenet")
    parser.add_argument("--dataset", default="folder")
    parser.add_argument("--data_dir", type=Path)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    source = pipelines.open_source(arguments.dataset, data_dir=arguments.data_dir)
    recipe = pipelines.recipe(arguments.recipe)
    strategy, model, _ = build(arguments.network, recipe.image_size, len(source.class_names))
    evaluate = make_evaluate(model, strategy)
    # A training stream stands by, as in a run.
    stream = pipelines.train_stream(source, recipe, batch_size=arguments.batch_size, seed=0)
    next(stream)
    for turn in range(arguments.turns + 1):
        began = time.perf_counter()
        batches = pipelines.test_stream(
            source,
            recipe,
            batch_size=arguments.batch_size,
            distribute=lambda data: distribute(strategy, lambda context: data),
        )
        watched = Watched(batches)
        evaluate(watched, -(-source.sizes["test"] // arguments.batch_size))
        asked, given = watched.asked, watched.given
        del batches, watched
        gc.collect()
        ended = time.perf_counter()
        waits = [b - a for a, b in zip(asked, given, strict=False)]
        found = {
            "opening": given[0] - began,
            "waiting": sum(waits[1:]),
            "batches": asked[-1] - given[0] - sum(waits[1:]),
            "end": ended - asked[-1],
        }
        if turn:  # the first one traces
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
