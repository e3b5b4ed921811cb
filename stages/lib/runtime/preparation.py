"""A photo as the models take it. Training and use share this; nothing here imports torch."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

FOREIGN = (".avif", ".cr2", ".dng", ".eps", ".heic", ".heif", ".nef", ".pdf", ".svg")  # what Pillow may not read


def prepare(path: Path, size: int) -> NDArray[np.uint8]:
    """Read an image: upright by its EXIF orientation, on white where it is transparent, cut to its middle square.

    Returns:
        RGB, uint8 (size, size, 3), scaled with antialiasing.

    Raises:
        ValueError: If it is no image that can be read, or has more than 8 bits a channel.
    """
    if not path.exists():
        raise ValueError(f"{path} must be an image, found nothing there; check its path")
    if path.is_dir():
        raise ValueError(f"{path} must be an image, got a folder; move its images up or remove it")
    try:
        with Image.open(path) as image:
            mode = image.mode
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                upright = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
            upright = upright.convert("RGB")
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} has too many pixels ({error}); shrink it") from None
    except UnidentifiedImageError:
        remedy = "convert it to JPEG or PNG" if path.suffix.lower() in FOREIGN else "remove it"
        raise ValueError(f"{path} is not an image Pillow can read; {remedy}") from None
    except Exception as error:  # decoders raise whatever they stumble over
        raise ValueError(f"{path} is not a readable image ({error}); repair or remove it") from error
    if mode.startswith(("I", "F")):  # would be cut off at 255
        raise ValueError(f"{path} must have 8 bits a channel, got Pillow's mode {mode}; convert it")
    return np.asarray(ImageOps.fit(upright, (size, size), method=Image.Resampling.BICUBIC))
