"""Picture files to RGB: one way for packing and for training, so that what was packed can be trained on.

What the bytes are decides, not the file's name. Orientation is applied, transparency laid on white, 16-bit values
scaled, the first frame of an animation taken. Broken files and ones of too many pixels are refused.
"""

import io
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from lit_avg.errors import UserError

MAX_PIXELS = 2**26
"""67 megapixels, 200 MB as RGB: a small file can claim to be any size."""

_EXTENSIONS = {"jpeg": "jpg", "mpo": "jpg", "tiff": "tif"}  # where Pillow's name of the format is another

_COMMON = ("JPEG", "PNG", "GIF", "WEBP")

_RUNS_PROGRAMS = {"EPS", "WMF"}
"""Formats that Pillow hands to another program: nothing out of the web is run."""

_ON_ITS_SIDE = (5, 6, 7, 8)
"""Values of the EXIF orientation under which height and width change places."""


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
    return recognise_picture(data, name)[0]


def recognise_picture(data: bytes, name: str) -> tuple[Image.Image, str]:
    """`decode_picture`, and the file name extension that fits the bytes, such as `png` or `jpg`."""
    try:
        with _opened(data) as picture:
            picture.load()
            form = (picture.format or "img").lower()
            return to_rgb(_upright(picture)), _EXTENSIONS.get(form, form)
    except UnidentifiedImageError as error:
        raise UserError(f"{name}: not a picture of a known format") from error
    except Exception as error:  # decoders of dozens of formats fail on broken files in any way
        raise UserError(f"{name}: a picture that cannot be read: {error or type(error).__name__}") from error


def picture_size(data: bytes, name: str) -> tuple[int, int]:
    """Height and width of what `decode_picture` would give, without decoding more than it must.

    Raises:
        UserError: it is no picture, or has more than `MAX_PIXELS`.
    """
    try:
        with _opened(data) as picture:
            if picture.format == "TIFF":  # turned by Pillow itself, when it is decoded
                picture.load()
            turned = _orientation(picture) in _ON_ITS_SIDE
            return (picture.width, picture.height) if turned else (picture.height, picture.width)
    except Exception as error:  # as in `decode_picture`
        raise UserError(f"{name}: a picture that cannot be read: {error or type(error).__name__}") from error


@cache
def _formats() -> list[str]:
    """In the order in which they are tried."""
    Image.init()
    return [*_COMMON, *(name for name in Image.ID if name not in _RUNS_PROGRAMS and name not in _COMMON)]


@contextmanager
def _opened(data: bytes) -> Generator[Image.Image]:
    """A picture file of bearable size; warnings on metadata are of no use, and those on size are errors."""
    with warnings.catch_warnings(action="ignore"):
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # of pictures within pictures, as in icons
        with Image.open(io.BytesIO(data), formats=_formats()) as picture:
            if not 0 < picture.width * picture.height <= MAX_PIXELS:
                raise ValueError(f"it has {picture.width}x{picture.height} pixels, and the limit is {MAX_PIXELS}")
            yield picture


def _upright(picture: Image.Image) -> Image.Image:
    """Turn it as its EXIF data say; broken EXIF data say nothing."""
    if _orientation(picture) in (None, 1):  # as nearly all are: that spares a copy
        return picture
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # as in `decode_picture`, but the pixels are good
        return picture


def _orientation(picture: Image.Image) -> int | None:
    try:
        return picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # as in `_upright`
        return None


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
    """16-bit grey to 8 bits by dropping the low byte; other wide values by their own range, what is no number as 0."""
    values = np.nan_to_num(np.asarray(picture).astype(np.float64), nan=0, posinf=0, neginf=0)
    low, high = values.min(), values.max()
    sixteen_bits = picture.mode == "I" and low >= 0 and 256 <= high < 256**2  # so does Pillow read a PGM of 16 bits
    if picture.mode.startswith("I;16") or sixteen_bits:
        return Image.fromarray((values / 256).astype(np.uint8))
    return Image.fromarray(((values - low) * (255 / max(high - low, 1e-12))).astype(np.uint8))
