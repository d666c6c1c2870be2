"""Writing our checkpoints, as a contender of bench_train.py: a "step" is one checkpoint."""

import argparse
import tempfile
import time
from pathlib import Path

import tensorflow as tf
from steps_ours import build
from turns import serve

from resnet_keras.train_job import INITIAL
from resnet_keras.training.checkpoints import Checkpoints
from resnet_keras.training.optimizers import all_finite


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--classes", type=int, default=1000)
    arguments = parser.parse_args()
    _, model, optimizer = build(arguments.network, arguments.image_size, arguments.classes)
    # The loop asks it before every checkpoint.
    finite = tf.function(lambda: all_finite([v.value for v in model.trainable_variables]))
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), model, {"optimizer": optimizer.state}, INITIAL)
        saved = 0

        def run(count: int) -> float:
            nonlocal saved
            start = time.perf_counter()
            for _ in range(count):
                saved += 1
                if not finite():
                    raise RuntimeError("The weights are not finite.")
                checkpoints.save(saved, INITIAL)
            return time.perf_counter() - start

        run(1)
        serve(run)


if __name__ == "__main__":
    main()
