"""Write a run's newest checkpoint of resnet50 again, as of other steps, each into a copy."""

import argparse
import shutil
from pathlib import Path

from steps_ours import build

from resnet_keras.train_job import INITIAL
from resnet_keras.training.checkpoints import Checkpoints


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--copies", nargs="+", required=True, help="FOLDER:STEP")
    arguments = parser.parse_args()
    _, model, optimizer = build("resnet50", 224, arguments.classes)
    for copy in arguments.copies:
        folder, _, step = copy.rpartition(":")
        shutil.copytree(arguments.run, folder)
        checkpoints = Checkpoints(Path(folder), model, {"optimizer": optimizer.state}, INITIAL)
        _, state = checkpoints.restore()
        checkpoints.save(int(step), state)


if __name__ == "__main__":
    main()
