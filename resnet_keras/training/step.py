"""The compiled training step: several of them in one tf.function, on any strategy."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from resnet_keras.training.optimizers import LossScale, MomentumSGD, Muon, all_finite
from resnet_keras.training.strategy import moving_statistics


class Steps(NamedTuple):
    """What one call of the compiled loop did.

    made: whole steps. sums: of each, [cross-entropy, wrong answers, weights] over its images.
    waited: seconds without a batch. stop: whether any worker asked to stop. failure: the error
    that ended the call early, if the iterator raised one.
    """

    made: int
    sums: list[list[float]]
    waited: float
    stop: bool
    failure: tf.errors.OpError | None


def make_train_function(
    model: keras.Model,
    optimizer: MomentumSGD | Muon,
    strategy: tf.distribute.Strategy,
    *,
    batch_size: int,
    seed: int,
    steps_per_call: int,
    accumulation_steps: int = 1,
    loss_scale: LossScale | None = None,
    forward: Callable[[tf.Tensor], tf.Tensor] | None = None,
    window: int = 0,
    window_steps: int = 0,
    label_smoothing: float = 0.0,
) -> Callable[..., Steps]:
    """Return a function that makes several steps in one compiled call.

    The function takes an iterator of ``{"image", "label", "weight"}`` batches, the learning rates
    of the next ``steps_per_call`` steps or more, of which it uses the first ``count``, that
    ``count``, the number of steps made before, and whether this worker wants to stop. It returns
    ``Steps``. The cross-entropy is that of the labels as they are, without the decay term, which
    the optimizer adds to the gradient. Every step waits for the one before, so a failing iterator
    leaves whole steps.

    Args:
        model: returns logits.
        optimizer: built inside the strategy's scope.
        strategy: runs the replicas.
        batch_size: global, in images.
        seed: of dropout.
        steps_per_call: at most so many steps in one call.
        accumulation_steps: parts of a replica's batch whose gradients are added up, one part in
            memory at a time; each has batch-norm statistics of its own, as a device has, and the
            moving averages follow the mean of the parts.
        loss_scale: for float16, made inside the strategy's scope. Of a step whose gradients
            overflow even at factor 1, the sum of the cross-entropy is told as NaN.
        forward: images -> logits in training mode, instead of the model's own.
        window: pixels a side that the first ``window_steps`` steps see of the images, at a place
            drawn for the whole batch from seed and step; the model must take any image size.
        window_steps: no call of the function may begin before it and end behind it.
        label_smoothing: share of each label that gradients spread over all classes.
    """
    dropouts = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    variables = [variable.value for variable in model.trainable_variables]
    statistics = moving_statistics(model)
    replicas = strategy.num_replicas_in_sync
    # Only the model's __call__ insists on its image size, none of its layers does.
    apply = model.call if window_steps else model
    forward = forward or (lambda images: apply(images, training=True))
    sums = tf.Variable(tf.zeros([steps_per_call, 4]))  # of each step; the last column: stop
    made, waited = tf.Variable(0), tf.Variable(0.0, dtype=tf.float64)

    def windowed(images: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        """Cut the window of a step; it has the same place on all replicas."""
        _, height, width, channels = images.shape
        places = tf.constant([height - window + 1, width - window + 1], tf.float32)
        drawn = tf.random.stateless_uniform([2], [seed, number])
        row, column = tf.unstack(tf.cast(drawn * places, tf.int32))
        cut = images[:, row : row + window, column : column + window]
        return tf.ensure_shape(cut, [None, window, window, channels])

    def gradients_and_sums(
        batch: dict[str, tf.Tensor], mask: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        # Dropout's state is set, not advanced: masks depend on seed, layer, step, replica and
        # part only, so a resumed run draws the same ones and replicas draw different ones.
        for index, layer in enumerate(dropouts):
            state = layer.seed_generator.state
            state.assign(tf.stack([seed + index * 2**16, tf.cast(mask, state.dtype)]))
        with tf.GradientTape() as tape:
            logits = tf.cast(forward(batch["image"]), tf.float32)
            losses = batch["weight"] * tf.nn.sparse_softmax_cross_entropy_with_logits(
                batch["label"], logits
            )
            smoothed = losses
            if label_smoothing:
                even = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=-1) * batch["weight"]
                smoothed = (1 - label_smoothing) * losses + label_smoothing * even
            loss = tf.reduce_sum(smoothed) / batch_size
            if loss_scale:
                loss *= loss_scale.factor
        gradients = tape.gradient(loss, variables)
        answers = tf.argmax(logits, axis=-1, output_type=batch["label"].dtype)
        wrong = batch["weight"] * tf.cast(answers != batch["label"], tf.float32)
        return gradients, tf.stack([tf.reduce_sum(x) for x in (losses, wrong, batch["weight"])])

    def accumulated(
        batch: dict[str, tf.Tensor], mask: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        parts = {
            name: tf.reshape(part, [accumulation_steps, -1, *part.shape[1:]])
            for name, part in batch.items()
        }
        totals = [tf.zeros(variable.shape) for variable in variables]
        total = tf.zeros(3)
        # Every part updates what the step found, as devices do, whose averages are averaged, too.
        before = [tf.identity(value) for value in statistics]
        means = [tf.zeros(value.shape) for value in statistics]
        for part in tf.range(accumulation_steps):
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)
            _assign(statistics, before)
            found, seen = gradients_and_sums(
                {name: value[part] for name, value in parts.items()},
                mask * accumulation_steps + tf.cast(part, mask.dtype),
            )
            totals = [old + new for old, new in zip(totals, found, strict=True)]
            means = [
                mean + value / accumulation_steps
                for mean, value in zip(means, statistics, strict=True)
            ]
            total += seen
        _assign(statistics, means)
        return totals, total

    def step(
        batch: dict[str, tf.Tensor],
        number: tf.Tensor,
        rate: tf.Tensor,
        stop: tf.Tensor,
        small: bool,
    ) -> tf.Tensor:
        if small:
            batch = batch | {"image": windowed(batch["image"], number)}
        context = tf.distribute.get_replica_context()
        mask = tf.cast(number, tf.int64) * replicas + tf.cast(
            context.replica_id_in_sync_group, tf.int64
        )
        if accumulation_steps > 1:
            gradients, seen = accumulated(batch, mask)
        else:
            gradients, seen = gradients_and_sums(batch, mask)
        # One reduction for everything: among workers each one costs a round trip.
        *gradients, seen = context.all_reduce(
            tf.distribute.ReduceOp.SUM, [*gradients, tf.concat([seen, [stop]], 0)]
        )
        if loss_scale is None:
            optimizer.apply(gradients, rate)
        else:
            gradients = [gradient / loss_scale.factor for gradient in gradients]
            finite = all_finite(gradients)
            # With nothing left to halve, all later steps would be left out, too.
            lost = tf.logical_and(tf.logical_not(finite), loss_scale.factor <= 1)
            seen += tf.where(lost, [float("nan"), 0.0, 0.0, 0.0], tf.zeros(4))
            tf.cond(finite, lambda: optimizer.apply(gradients, rate), lambda: None)
            loss_scale.update(finite)
        return seen

    @tf.function
    def compiled(
        iterator: tf.data.Iterator,
        rates: tf.Tensor,
        count: tf.Tensor,
        first: tf.Tensor,
        stop: tf.Tensor,
        small: bool,
    ) -> None:
        made.assign(0)
        waited.assign(0.0)
        for index in tf.range(count):
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)
            asked = tf.timestamp()
            with tf.control_dependencies([asked]):
                batch = next(iterator)
            with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
                waited.assign_add(tf.timestamp() - asked)
            seen = strategy.run(step, args=(batch, first + index, rates[index], stop, small))
            seen = strategy.experimental_local_results(seen)[0]
            with tf.control_dependencies([sums.scatter_nd_update([[index]], [seen])]):
                made.assign_add(1)

    def train_function(
        iterator: tf.data.Iterator,
        rates: Sequence[float],
        count: int,
        first: int,
        stop: bool = False,
    ) -> Steps:
        failure = None
        try:
            compiled(
                iterator,
                tf.constant(rates, tf.float32),
                tf.constant(count),
                tf.constant(first),
                tf.constant(float(stop)),
                small=first < window_steps,
            )
        except tf.errors.OpError as error:
            failure = error
        steps = int(made.numpy())
        rows = sums.numpy()[:steps].tolist()
        stopping = bool(rows) and rows[-1][3] > 0
        return Steps(steps, [row[:3] for row in rows], float(waited.numpy()), stopping, failure)

    return train_function


def _assign(variables: Sequence[tf.Variable], values: Sequence[tf.Tensor]) -> None:
    """Set one replica's copies, each by itself."""
    for variable, value in zip(variables, values, strict=True):
        tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)
