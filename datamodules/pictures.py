"""Picture files to RGB: one way for packing and for training, so that what was packed can be trained on.

What the bytes are decides, not the file's name. Orientation is applied, transparency laid on white, 16-bit values
scaled, the first frame of an animation taken. Broken files and ones of too many pixels are refused.
"""

import io
import warnings

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from lit_avg.errors import UserError

MAX_PIXELS = 2**26
"""67 megapixels, 200 MB as RGB: a small file can claim to be any size."""

_DECODING_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, EOFError, IndexError, KeyError)
"""What Pillow raises on broken files of the many formats."""


def decode_picture(data: bytes, name: str) -> Image.Image:
    """Decode a picture file.

    Args:
        data: the file's bytes.
        name: what the message calls it.

    Returns:
        An RGB picture, the right way up.

    Raises:
        UserError: it cannot be decoded whole, or has more than `MAX_PIXELS`.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # on size, which is checked here; on metadata, which is not used
            return _decode(data)
    except UnidentifiedImageError as error:
        raise UserError(f"{name}: not a picture of a known format") from error
    except _DECODING_ERRORS as error:
        raise UserError(f"{name}: a picture that cannot be read: {error}") from error


def picture_format(data: bytes) -> str:
    """The file name extension that fits the bytes, such as `png` or `jpg`."""
    with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as picture:
        name = (picture.format or "img").lower()
    return {"jpeg": "jpg", "mpo": "jpg", "tiff": "tif"}.get(name, name)


def _decode(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"it has {picture.width}x{picture.height} pixels, and the limit is {MAX_PIXELS}")
        picture.load()
        return to_rgb(_upright(picture))


def _upright(picture: Image.Image) -> Image.Image:
    """Turn it as its EXIF data say; broken EXIF data say nothing."""
    try:
        return ImageOps.exif_transpose(picture)
    except (*_DECODING_ERRORS, ZeroDivisionError, TypeError):
        return picture


def to_rgb(picture: Image.Image) -> Image.Image:
    """Any of Pillow's modes to RGB."""
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith(("I", "F")):
        picture = _to_eight_bits(picture)
    if picture.has_transparency_data:
        with_alpha = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), with_alpha).convert("RGB")
    if picture.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(picture, *profiles, outputMode="RGB") or picture
    return picture.convert("RGB")


def _to_eight_bits(picture: Image.Image) -> Image.Image:
    """16-bit grey to 8 bits by dropping the low byte; other wide values by their own range."""
    values = np.asarray(picture).astype(np.float64)
    if picture.mode.startswith("I;16"):
        return Image.fromarray((values / 256).astype(np.uint8))
    low, high = values.min(), values.max()
    return Image.fromarray(((values - low) * (255 / max(high - low, 1e-12))).astype(np.uint8))
