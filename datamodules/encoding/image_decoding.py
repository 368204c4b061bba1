"""Image files to RGB: one way for packing and for training, so that what was packed can be trained on.

What the bytes are decides, not the file's name. What is opened becomes RGB as in `generate`: see
`lit_avg.inputs.image_decoding`. Broken files and ones of too many pixels are refused.
"""

import io
import struct
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache

from PIL import Image, UnidentifiedImageError

from lit_avg.inputs.image_decoding import orientation, upright_rgb
from lit_avg.utils.errors import UserError

MAX_PIXELS = 2**26
"""67 megapixels, 200 MB as RGB: a small file can claim to be any size."""

_EXTENSIONS = {"jpeg": "jpg", "mpo": "jpg", "tiff": "tif"}  # where Pillow's name of the format is another

_COMMON = ("JPEG", "PNG", "GIF", "WEBP")

_RUNS_PROGRAMS = {"EPS", "WMF"}
"""Formats that Pillow hands to another program: nothing out of the web is run."""

_ON_ITS_SIDE = (5, 6, 7, 8)
"""Values of the EXIF orientation under which height and width change places."""


def decode_image(data: bytes, name: str) -> Image.Image:
    """Decode an image file.

    Args:
        data: the file's bytes.
        name: what the message calls it.

    Returns:
        An RGB image, the right way up.

    Raises:
        UserError: it cannot be decoded whole, or has more than `MAX_PIXELS`.
    """
    return recognise_image(data, name)[0]


def recognise_image(data: bytes, name: str) -> tuple[Image.Image, str]:
    """`decode_image`, and the file name extension that fits the bytes, such as `png` or `jpg`."""
    try:
        with _opened(data) as image:
            form = (image.format or "img").lower()
            return upright_rgb(image), _EXTENSIONS.get(form, form)
    except UnidentifiedImageError as error:
        raise UserError(f"{name}: not an image of a known format") from error
    except Exception as error:  # decoders of dozens of formats fail on broken files in any way
        raise UserError(f"{name}: an image that cannot be read: {error or type(error).__name__}") from error


def image_size(data: bytes, name: str) -> tuple[int, int]:
    """Height and width of what `decode_image` would give, without decoding more than it must.

    Raises:
        UserError: it is no image, or has more than `MAX_PIXELS`.
    """
    try:
        with _opened(data) as image:
            if image.format == "TIFF":  # turned by Pillow itself, when it is decoded
                image.load()
            turned = orientation(image) in _ON_ITS_SIDE
            return (image.width, image.height) if turned else (image.height, image.width)
    except Exception as error:  # as in `decode_image`
        raise UserError(f"{name}: an image that cannot be read: {error or type(error).__name__}") from error


@cache
def _formats() -> list[str]:
    """In the order in which they are tried."""
    Image.init()
    return [*_COMMON, *(name for name in Image.ID if name not in _RUNS_PROGRAMS and name not in _COMMON)]


@contextmanager
def _opened(data: bytes) -> Generator[Image.Image]:
    """An image file of bearable size; warnings on metadata are of no use, and those on size are errors."""
    with warnings.catch_warnings(action="ignore"):
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # of images within images, as in icons
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            width, height = image.size
            if image.format == "GIF":
                width, height = _extent(data)
            if not 0 < width * height <= MAX_PIXELS:
                raise ValueError(f"it has {width}x{height} pixels, and the limit is {MAX_PIXELS}")
            yield image


def _extent(gif: bytes) -> tuple[int, int]:
    """Width and height that all frames of a GIF take up: one may reach beyond the others and the whole."""
    width, height, flags = struct.unpack_from("<HHB", gif, 6)
    place = 13 + _bytes_of_colours(flags)
    while place + 10 <= len(gif) and gif[place : place + 1] != b";":
        kind = gif[place : place + 1]
        if kind == b",":  # a frame
            left, top, across, down, flags = struct.unpack_from("<4HB", gif, place + 1)
            width, height = max(width, left + across), max(height, top + down)
            place += 11 + _bytes_of_colours(flags)
        elif kind == b"!":  # an extension
            place += 2
        else:  # Pillow reads on behind what it does not know
            place += 1
            continue
        while place < len(gif) and gif[place]:
            place += 1 + gif[place]
        place += 1
    return width, height


def _bytes_of_colours(flags: int) -> int:
    return 3 * 2 ** (1 + flags % 8) if flags & 0x80 else 0
