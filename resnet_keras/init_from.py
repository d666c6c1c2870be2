"""--init_from: a network that starts from another run's, as deep or shallower."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

import pipelines
from pipelines.splits import sample
from resnet_keras import jobs
from resnet_keras.command_line import of_run
from resnet_keras.config import Config
from resnet_keras.errors import InputError
from resnet_keras.evaluation.agreement import compare
from resnet_keras.models.architectures import ResNetSpec, architecture
from resnet_keras.models.deepen import deepen

STATISTICS_BATCHES = 10  # on which the input of identity layers is measured
COMPARED_IMAGES = 1_280  # at most; on these the two networks are compared


def start_from(
    config: Config,
    source: pipelines.Source,
    recipe: pipelines.Recipe,
    model: keras.Model,
    replicas: int,
) -> dict[str, Any]:
    """Give a network the weights of --init_from's newest checkpoint; return what to log.

    The record holds ``init_from`` (the run's name), ``init_step``, ``copied`` and ``added`` (layers
    with kernels) and, for residual and plain networks, which compute the same, the answers of
    ``evaluation.agreement.compare``.

    Args:
        config: of the run that starts.
        source: its images.
        recipe: their preprocessing.
        model: of ``jobs.build``; set in place.
        replicas: devices that a batch is divided among.

    Raises:
        InputError: where the other run has other classes, images of another size, or a network
            that this one cannot start from.
    """
    place = config.init_from
    other, names = of_run(config, place)
    if tuple(names) != source.class_names:
        raise InputError(
            f"--init_from={place} is a run on other classes than {config.dataset} with its "
            f"{len(source.class_names)}: name one on the same, or --init_weights={place}, which "
            "starts the classifier afresh where their number differs."
        )
    size = other.make_recipe().image_size
    if size != recipe.image_size:
        raise InputError(
            f"--init_from={place} is a run on images of {size} pixels a side, not "
            f"{recipe.image_size}: give --image_size={size}, or another run."
        )
    # In this run's precision: what differs then are the networks.
    other = dataclasses.replace(
        other,
        precision=config.precision,
        checkpoint="latest",
        batchnorm_statistics="moving_average",
    )
    shallow, step = jobs.restore(other, source, recipe)
    spec, shallow_spec = (
        architecture(asked.model, classes=len(source.class_names), **asked.architecture_arguments())
        for asked in (config, other)
    )
    # As large as those that training normalises by.
    local = config.batch_size // (replicas * config.accumulation_steps)
    copied, added = deepen(
        shallow, shallow_spec, model, spec, _training_images(config, source, recipe, local)
    )
    record = {
        "init_from": Path(place).name,
        "init_step": step,
        "copied": len(copied),
        "added": len(added),
    }
    if isinstance(spec, ResNetSpec):
        record |= compare(model, shallow, _sampled(config, source, recipe, local))
    return record


def _training_images(
    config: Config, source: pipelines.Source, recipe: pipelines.Recipe, local: int
) -> Iterator[Any]:
    """Yield the images of the first training steps; opens the stream when it is first asked."""
    stream = pipelines.train_stream(
        source,
        recipe,
        batch_size=local,
        seed=config.seed,
        max_bad_fraction=config.max_bad_fraction,
        log=jobs.tell_unreadable,
    )
    count = STATISTICS_BATCHES * config.batch_size // local
    yield from (batch["image"] for batch in itertools.islice(stream, count))


def _sampled(
    config: Config, source: pipelines.Source, recipe: pipelines.Recipe, local: int
) -> Iterator[Any]:
    """Return batches of training images as they are tested, drawn at random."""
    images = source.sizes["train"]
    size = min(local, images)
    # Whole batches: what fills a batch would change its statistics.
    count = size * max(1, min(COMPARED_IMAGES, images) // size)
    drawn = sample(source.splits["train"], count, config.seed)
    return pipelines.test_stream(
        dataclasses.replace(source, splits={"train": drawn}),
        recipe,
        split="train",
        batch_size=size,
        max_bad_fraction=config.max_bad_fraction,
        log=jobs.tell_unreadable,
    )
