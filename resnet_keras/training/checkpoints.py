"""Save and restore all that a step depends on."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from pipelines import first_line
from resnet_keras.errors import InputError


class Checkpoints:
    """Keep the last checkpoints of a run.

    Variables are stored flat, under their layers' names, so that a checkpoint can be read
    without Keras's object graph and a network of 4,000 layers needs no recursion.

    Args:
        directory: the run's; files are ``ckpt-STEP``.
        model: the network.
        optimizer: built; left out to read the weights only.
        keep: how many checkpoints stay.
    """

    def __init__(
        self,
        directory: Path,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer | None = None,
        keep: int = 3,
    ) -> None:
        self._step = tf.Variable(0, dtype=tf.int64)
        self._window = tf.Variable(tf.zeros(3, tf.float64))
        tracked = {"step": self._step, "window": self._window, "model": _by_path(model.variables)}
        if optimizer:
            tracked["optimizer"] = _by_path(optimizer.variables)
        self._checkpoint = tf.train.Checkpoint(**tracked)
        self._weights_only = optimizer is None
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, str(directory), max_to_keep=keep, checkpoint_name="ckpt"
        )

    def save(self, step: int, window: Sequence[float] = (0, 0, 0)) -> None:
        """Write ``ckpt-STEP``; the state file that names it is written last.

        Args:
            step: steps made.
            window: the loop's sums since the last line of the log.

        Raises:
            OSError: where the disk is full or gone; the checkpoints before stay as they are.
        """
        self._step.assign(step)
        self._window.assign(window)
        try:
            self._manager.save(checkpoint_number=step)
        except tf.errors.OpError as error:
            raise OSError(
                f"The checkpoint of step {step:,} cannot be written "
                f"({first_line(error)}): make room, and the same command resumes "
                "from the one before."
            ) from None

    def restore(self) -> tuple[int, list[float]]:
        """Read the newest checkpoint; return its step and window, (0, zeros) without one.

        Raises:
            InputError: where it is damaged or does not fit the network.
        """
        latest = self._manager.latest_checkpoint
        if latest is None:
            return 0, [0.0] * 3
        try:
            status = self._checkpoint.restore(latest)
            if self._weights_only:  # the optimizer's variables stay unread
                status.assert_existing_objects_matched().expect_partial()
            else:
                status.assert_consumed()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            raise InputError(
                f"{latest} is damaged or of another network ({first_line(error)}): "
                "give the run's own settings, or --restart."
            ) from None
        return int(self._step.numpy()), self._window.numpy().tolist()


def _by_path(variables: Sequence[keras.Variable]) -> dict[str, tf.Variable]:
    # Dropout's seeds are set at every step, and their names differ from build to build.
    kept = [variable for variable in variables if variable.name != "seed_generator_state"]
    return {variable.path: variable.value for variable in kept}


def average_statistics(strategy: tf.distribute.Strategy, model: keras.Model) -> None:
    """Set every replica's moving statistics to their mean over replicas.

    Replicas keep statistics of their own; without this, a checkpoint or an answer would depend
    on which replica it came from.
    """
    if strategy.num_replicas_in_sync == 1:
        return
    for variable in _statistics(model):
        values = strategy.experimental_local_results(variable.value)
        variable.value.assign(tf.reduce_mean(tf.stack([tf.identity(v) for v in values]), axis=0))


def _statistics(model: keras.Model) -> Iterator[keras.Variable]:
    for variable in model.non_trainable_variables:
        if variable.name in ("moving_mean", "moving_variance"):
            yield variable
