"""Save and restore all that a step depends on."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from pipelines import first_line
from resnet_keras.errors import InputError
from resnet_keras.training.schedules import State


class Checkpoints:
    """Keep the last checkpoints of a run.

    Variables are stored flat, under their layers' names, so that a checkpoint can be read
    without Keras's object graph and a network of 4,000 layers needs no recursion.

    Args:
        directory: the run's; files are ``ckpt-STEP``.
        model: the network.
        others: further variables by group and name, e.g. the optimizer's; left out to read the
            weights only.
        state: numbers by name, as they are in a new run.
        keep: how many checkpoints stay.
    """

    def __init__(
        self,
        directory: Path,
        model: keras.Model,
        others: Mapping[str, Mapping[str, tf.Variable]] | None = None,
        state: State | None = None,
        keep: int = 3,
    ) -> None:
        self._step = tf.Variable(0, dtype=tf.int64)
        self._initial = dict(state or {})
        self._state = {
            name: tf.Variable(value, dtype=tf.float64) for name, value in self._initial.items()
        }
        self._weights_only = others is None
        tracked = {"step": self._step, "model": _by_path(model.variables)}
        if others is not None:
            tracked |= {"state": self._state, **others}
        self._checkpoint = tf.train.Checkpoint(**tracked)
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, str(directory), max_to_keep=keep, checkpoint_name="ckpt"
        )

    @property
    def latest_step(self) -> int:
        """The step of the newest checkpoint, 0 without one."""
        return _step_of(self._manager.latest_checkpoint)

    def save(self, step: int, state: State | None = None) -> None:
        """Write ``ckpt-STEP``; the state file that names it is written last.

        Args:
            step: steps made.
            state: numbers by name, the same names as at the start.

        Raises:
            OSError: where the disk is full or gone; the checkpoints before stay as they are.
        """
        self._step.assign(step)
        for name, value in (state or {}).items():
            self._state[name].assign(value)
        try:
            self._manager.save(checkpoint_number=step)
        except (tf.errors.OpError, OSError) as error:
            raise OSError(
                f"The checkpoint of step {step:,} cannot be written "
                f"({first_line(error)}): make room, and the same command resumes "
                "from the one before."
            ) from None

    def restore(self) -> tuple[int, State]:
        """Read the newest checkpoint; return its step and state, those of a new run without one.

        Raises:
            InputError: where it is damaged or does not fit the network.
        """
        latest = self._manager.latest_checkpoint
        if latest is None:
            return 0, dict(self._initial)
        try:
            status = self._checkpoint.restore(latest)
            if self._weights_only:  # the optimizer's variables stay unread
                status.assert_existing_objects_matched().expect_partial()
            else:
                status.assert_consumed()
        except (AssertionError, LookupError, ValueError, tf.errors.OpError) as error:
            older = self._manager.checkpoints[:-1]
            remedy = (
                f"write {Path(older[-1]).name} for {Path(latest).name} in the file "
                f"{Path(latest).with_name('checkpoint')} to go back to that one"
                if older
                else "train anew with --restart"
            )
            raise InputError(
                f"{latest} is damaged or of another network ({first_line(error)}): "
                f"give the run's own settings, or {remedy}."
            ) from None
        state = {name: float(variable.numpy()) for name, variable in self._state.items()}
        return int(self._step.numpy()), state


def newest_step(directory: Path) -> int:
    """Return the step of a run's newest checkpoint, 0 without one."""
    return _step_of(tf.train.latest_checkpoint(str(directory)))


def _step_of(checkpoint: str | None) -> int:
    return int(checkpoint.rpartition("-")[2]) if checkpoint else 0


def _by_path(variables: Sequence[keras.Variable]) -> dict[str, tf.Variable]:
    # Dropout's seeds are set at every step, and their names differ from build to build.
    kept = [variable for variable in variables if variable.name != "seed_generator_state"]
    return {variable.path: variable.value for variable in kept}
