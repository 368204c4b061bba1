"""Opened images to the RGB that a model sees: one way for packing, training and `generate`.

Orientation is applied, transparency laid on white, 16-bit values scaled, the first frame of an animation taken.
"""

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps


def upright_rgb(image: Image.Image) -> Image.Image:
    """Any image of Pillow's as it is to be seen: decoded, the right way up, in RGB.

    Raises:
        OSError, ValueError, SyntaxError: it cannot be decoded.
    """
    image.load()
    return to_rgb(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    """Turn it as its EXIF data say; broken EXIF data say nothing."""
    if orientation(image) in (None, 1):  # as nearly all are: that spares a copy
        return image
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # readers of metadata fail on broken ones in any way, but the pixels are good
        return image


def orientation(image: Image.Image) -> int | None:
    """EXIF's number for how it is turned, if there is any."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # as in `_upright`
        return None


def to_rgb(image: Image.Image) -> Image.Image:
    """Any of Pillow's modes to RGB."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "La":  # Pillow turns it into nothing else
        image = image.convert("LA")
    if image.mode.startswith(("I", "F")):
        image = _to_eight_bits(image)
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), with_alpha).convert("RGB")
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, *profiles, outputMode="RGB") or image
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey to 8 bits by dropping the low byte; other wide values by their own range, what is no number as 0."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64), nan=0, posinf=0, neginf=0)
    low, high = values.min(), values.max()
    sixteen_bits = image.mode == "I" and low >= 0 and 256 <= high < 256**2  # so does Pillow read a PGM of 16 bits
    if image.mode.startswith("I;16") or sixteen_bits:
        return Image.fromarray((values / 256).astype(np.uint8))
    return Image.fromarray(((values - low) * (255 / max(high - low, 1e-12))).astype(np.uint8))
