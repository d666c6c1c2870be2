"""The papers' recipes: what happens to an image in training and in testing, as data."""

import dataclasses
from typing import Literal

from pipelines.datasets import DataError


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Say, one step a line and in their order, what happens to an image.

    crop: "resized" draws the shorter side of the whole image uniformly from `shorter_sides`
    (inclusive integers) and cuts a random image_size square out of it; "padded" pads the image
    by `padding` pixels on each side and cuts a random image_size square out of that.
    padding_value: "mean" pads after the mean is subtracted, "black" pads the pixels with 0.
    colour_std: standard deviation of AlexNet's colour shift; 0 leaves colours alone.
    subtract: "pixel_mean" falls back to the channel mean where no mean image of the size exists.
    channel_mean, channel_std: RGB, 0..255; None takes the data set's.
    test_shorter_side: the whole test image is resized to it, then its centre square is cut.
    """

    name: str
    source: str
    image_size: int
    crop: Literal["resized", "padded"]
    test_shorter_side: int
    shorter_sides: tuple[int, int] = (0, 0)
    padding: int = 0
    padding_value: Literal["mean", "black"] = "mean"
    flip: bool = True
    colour_std: float = 0.0
    subtract: Literal["pixel_mean", "channel_mean"] = "pixel_mean"
    divide_by_std: bool = False
    channel_mean: tuple[float, ...] | None = None
    channel_std: tuple[float, ...] | None = None


_RECIPES = (
    Recipe(
        name="imagenet",
        source="He et al. 2015, Sec. 3.4",
        crop="resized",
        shorter_sides=(256, 480),  # "shorter side randomly sampled in [256, 480]"
        image_size=224,  # "a 224x224 crop is randomly sampled"
        flip=True,  # "or its horizontal flip"
        colour_std=0.1,  # "the standard color augmentation in [21]", AlexNet
        subtract="pixel_mean",  # "with the per-pixel mean subtracted"
        test_shorter_side=256,
    ),
    Recipe(
        name="cifar",
        source="He et al. 2015, Sec. 4.2",
        subtract="pixel_mean",  # "32x32 images, with the per-pixel mean subtracted"
        crop="padded",
        padding=4,  # "4 pixels are padded on each side"
        image_size=32,  # "a 32x32 crop is randomly sampled"
        flip=True,  # "or its horizontal flip"
        test_shorter_side=32,  # "the single view of the original 32x32 image"
    ),
    Recipe(
        name="digits",
        source="the recipe of Sec. 4.2 without the flip: a mirrored digit is another sign",
        subtract="pixel_mean",
        crop="padded",
        padding=4,
        image_size=32,
        flip=False,
        test_shorter_side=32,
    ),
    Recipe(
        name="lab",
        source="the lab report on three classes of CIFAR-10",
        crop="padded",
        padding=4,  # not stated in the report
        padding_value="black",
        image_size=32,
        flip=True,
        subtract="channel_mean",
        channel_mean=(125.307, 122.961, 113.8575),  # (0.4914, 0.4822, 0.4465) of 0..1
        divide_by_std=True,
        channel_std=(51.5865, 50.847, 51.255),  # (0.2023, 0.1994, 0.2010) of 0..1
        test_shorter_side=32,
    ),
    Recipe(
        name="vgg",
        source="Simonyan and Zisserman 2014, Sec. 3.1",
        crop="resized",
        shorter_sides=(256, 256),  # "S = 256", a fixed training scale
        image_size=224,
        flip=True,  # "random horizontal flipping and random RGB colour shift"
        colour_std=0.1,
        subtract="channel_mean",  # Sec. 2.1: "subtracting the mean RGB value"
        test_shorter_side=256,  # Sec. 4.1: Q = S
    ),
)
RECIPES = {entry.name: entry for entry in _RECIPES}


def recipe(name: str, *, image_size: int | None = None) -> Recipe:
    """Return a recipe, at another image size if one is given.

    Sides and padding keep their proportion to the image size, rounded: at 112 the "imagenet"
    recipe draws the shorter side from [128, 240] and tests at 128. Raises DataError.
    """
    if name not in RECIPES:
        raise DataError(f"There is no recipe '{name}'; choose one of {', '.join(RECIPES)}.")
    chosen = RECIPES[name]
    if image_size is None or image_size == chosen.image_size:
        return chosen
    if image_size < 8:
        raise DataError(f"The image size is {image_size}; it must be at least 8 pixels.")

    def scaled(pixels: int) -> int:
        return round(pixels * image_size / chosen.image_size)

    return dataclasses.replace(
        chosen,
        image_size=image_size,
        shorter_sides=(scaled(chosen.shorter_sides[0]), scaled(chosen.shorter_sides[1])),
        padding=scaled(chosen.padding),
        test_shorter_side=scaled(chosen.test_shorter_side),
    )
