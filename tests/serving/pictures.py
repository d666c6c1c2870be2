"""What the small export that tests ask is asked with: names of classes, files of pictures."""

import io

import numpy as np
from PIL import Image

NAMES = [f"class {index}" for index in range(7)]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
