"""The papers' recipes: what happens to an image in training and in testing, as data."""

import dataclasses
from typing import Literal

from pipelines.errors import DataError


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Say, one step a line and in their order, what happens to an image.

    crop: "resized" draws the shorter side of the whole image uniformly from `shorter_sides`
    (inclusive integers) and cuts a random image_size square out of it; "padded" pads the image
    by `padding` pixels on each side and cuts a random image_size square out of that;
    "inception" stretches a random part of the image, of an area in `areas` (fraction) and an
    aspect ratio in `ratios` (width / height), to the image_size square.
    padding_value: "mean" pads after the mean is subtracted, "black" pads the pixels with 0.
    colour_std: standard deviation of AlexNet's colour shift; 0 leaves colours alone.
    alternate_flips: half of the images, drawn once, are flipped in the first epoch, the others in
    the next, and so on; of "padded" images in memory only.
    subtract: "pixel_mean" falls back to the channel mean where no mean image of the size exists.
    channel_mean, channel_std: RGB, 0..255; None takes the data set's.
    test_shorter_side: the whole test image is resized to it, then its centre square is cut.
    antialias, test_antialias: low-pass filter before shrinking, in training and in testing.
    test_scales: shorter sides at which multi-scale testing sees the whole image; () where the
    source has no such test.
    """

    name: str
    source: str
    image_size: int
    crop: Literal["resized", "padded", "inception"]
    test_shorter_side: int
    shorter_sides: tuple[int, int] = (0, 0)
    padding: int = 0
    padding_value: Literal["mean", "black"] = "mean"
    areas: tuple[float, float] = (1.0, 1.0)
    ratios: tuple[float, float] = (1.0, 1.0)
    flip: bool = True
    alternate_flips: bool = False
    colour_std: float = 0.0
    subtract: Literal["pixel_mean", "channel_mean"] = "pixel_mean"
    divide_by_std: bool = False
    channel_mean: tuple[float, ...] | None = None
    channel_std: tuple[float, ...] | None = None
    antialias: bool = False
    test_antialias: bool = True
    test_scales: tuple[int, ...] = ()

    @property
    def crop_scales(self) -> tuple[int, ...]:
        """The three shorter sides of VGG's grids of crops; () for recipes that resize no image.

        Simonyan and Zisserman 2014, Sec. 4.2: {S - 32, S, S + 32} after a fixed training scale,
        {Smin, 0.5 (Smin + Smax), Smax} after scale jittering.
        """
        if self.crop != "resized":
            return ()
        low, high = self.shorter_sides
        step = round(32 * self.image_size / 224)
        return (low - step, low, low + step) if low == high else (low, (low + high) // 2, high)


_IMAGENET = Recipe(
    name="imagenet",
    source="He et al. 2015, Sec. 3.4",
    crop="resized",
    shorter_sides=(256, 480),  # "shorter side randomly sampled in [256, 480]"
    image_size=224,  # "a 224x224 crop is randomly sampled"
    flip=True,  # "or its horizontal flip"
    colour_std=0.1,  # "the standard color augmentation in [21]", AlexNet
    subtract="pixel_mean",  # "with the per-pixel mean subtracted"
    test_shorter_side=256,  # the authors' release; the paper has AlexNet's ten crops (of 256)
    # "images are resized such that the shorter side is in {224, 256, 384, 480, 640}"
    test_scales=(224, 256, 384, 480, 640),
)
_CIFAR = Recipe(
    name="cifar",
    source="He et al. 2015, Sec. 4.2",
    subtract="pixel_mean",  # "32x32 images, with the per-pixel mean subtracted"
    crop="padded",
    padding=4,  # "4 pixels are padded on each side"
    image_size=32,  # "a 32x32 crop is randomly sampled"
    flip=True,  # "or its horizontal flip"
    test_shorter_side=32,  # "the single view of the original 32x32 image"
)
_DIGITS = dataclasses.replace(
    _CIFAR,
    name="digits",
    source="the recipe of Sec. 4.2 for digits, which fill their frame and have no mirror image",
    padding=1,
    flip=False,
)
_LAB = Recipe(
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
)
_VGG = Recipe(
    name="vgg",
    source="Simonyan and Zisserman 2014, Sec. 3.1",
    crop="resized",
    shorter_sides=(256, 256),  # "S = 256", a fixed training scale
    image_size=224,
    flip=True,  # "random horizontal flipping and random RGB colour shift"
    colour_std=0.1,
    subtract="channel_mean",  # Sec. 2.1: "subtracting the mean RGB value"
    test_shorter_side=256,  # Sec. 4.1: Q = S
    test_scales=(224, 256, 288),  # Sec. 4.2: Q = {S - 32, S, S + 32}
)
_VGG_384 = dataclasses.replace(
    _VGG,
    name="vgg_384",
    shorter_sides=(384, 384),
    test_shorter_side=384,
    test_scales=(352, 384, 416),
)
_VGG_JITTER = dataclasses.replace(
    _VGG,
    name="vgg_jitter",
    shorter_sides=(256, 512),  # "S from a certain range [Smin, Smax]"
    test_shorter_side=384,  # Sec. 4.1: Q = 0.5 (Smin + Smax)
    test_scales=(256, 384, 512),  # Sec. 4.2: Q = {Smin, 0.5 (Smin + Smax), Smax}
)
_INCEPTION = Recipe(
    name="inception",
    source="the training reference of torchvision, for those who compare; not the paper's",
    crop="inception",
    areas=(0.08, 1.0),
    ratios=(3 / 4, 4 / 3),
    image_size=224,
    flip=True,
    antialias=True,
    subtract="channel_mean",
    channel_mean=(123.675, 116.28, 103.53),  # (0.485, 0.456, 0.406) of 0..1
    divide_by_std=True,
    channel_std=(58.395, 57.12, 57.375),  # (0.229, 0.224, 0.225) of 0..1
    test_shorter_side=256,
)
RECIPES = {
    entry.name: entry
    for entry in (_IMAGENET, _CIFAR, _DIGITS, _LAB, _VGG, _VGG_384, _VGG_JITTER, _INCEPTION)
}


def recipe(
    name: str,
    *,
    image_size: int | None = None,
    antialias: bool | None = None,
    channel_mean: tuple[float, ...] | None = None,
    channel_std: tuple[float, ...] | None = None,
    alternate_flips: bool = False,
) -> Recipe:
    """Return a recipe, changed as asked.

    image_size: sides and padding keep their proportion to it, rounded: at 112 the "imagenet"
    recipe draws the shorter side from [128, 240] and tests at 128.
    antialias: the same choice in training and testing.
    channel_mean, channel_std: of pixels in 0..1, instead of the data set's; a given mean is
    subtracted instead of the per-pixel mean, a given deviation is divided by.
    alternate_flips: of recipes that pad and flip.
    Raises DataError.
    """
    if name not in RECIPES:
        raise DataError(f"There is no recipe '{name}'; choose one of {', '.join(RECIPES)}.")
    chosen = RECIPES[name]
    if image_size is not None:
        chosen = _resized(chosen, image_size)
    if antialias is not None:
        chosen = dataclasses.replace(chosen, antialias=antialias, test_antialias=antialias)
    if channel_mean is not None:
        chosen = dataclasses.replace(
            chosen, subtract="channel_mean", channel_mean=_to_255("channel_mean", channel_mean)
        )
    if channel_std is not None:
        chosen = dataclasses.replace(
            chosen, divide_by_std=True, channel_std=_to_255("channel_std", channel_std)
        )
        if min(channel_std) <= 0:
            raise DataError(f"channel_std is {channel_std}; each number must be above 0.")
    if alternate_flips:
        if chosen.crop != "padded" or not chosen.flip:
            raise DataError(f"The recipe {name} does not pad and flip: leave alternate_flips out.")
        chosen = dataclasses.replace(chosen, alternate_flips=True)
    return chosen


def _resized(chosen: Recipe, image_size: int) -> Recipe:
    if image_size < 8:
        raise DataError(f"The image size is {image_size}; it must be at least 8 pixels.")

    def scaled(pixels: int) -> int:
        return round(pixels * image_size / chosen.image_size)

    low, high = chosen.shorter_sides
    return dataclasses.replace(
        chosen,
        image_size=image_size,
        shorter_sides=(scaled(low), scaled(high)),
        padding=scaled(chosen.padding),
        test_shorter_side=scaled(chosen.test_shorter_side),
        test_scales=tuple(map(scaled, chosen.test_scales)),
    )


def _to_255(name: str, values: tuple[float, ...]) -> tuple[float, ...]:
    if len(values) != 3 or not all(0 <= value <= 1 for value in values):
        raise DataError(f"{name} is {values}; give three numbers in 0..1, for red, green, blue.")
    return tuple(255.0 * value for value in values)
