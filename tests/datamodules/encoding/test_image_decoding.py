import contextlib
import io
import struct
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datamodules.encoding.image_decoding import MAX_PIXELS, decode_image, image_size, recognise_image
from lit_avg.utils.errors import UserError


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def colour_of(data: bytes) -> tuple[int, ...]:
    pixel = decode_image(data, "it").getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel


@pytest.mark.parametrize(
    ("mode", "value", "seen"),
    [
        ("L", 90, (90, 90, 90)),
        ("1", 1, (255, 255, 255)),
        ("I;16", 90 * 256, (90, 90, 90)),  # not clipped to white
        ("LA", (90, 255), (90, 90, 90)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),  # transparency lies on white
        ("RGBA", (100, 0, 0, 51), (224, 204, 204)),  # a fifth of (100, 0, 0) and four of white
    ],
)
def test_every_mode_becomes_rgb(mode: str, value: int | tuple[int, ...], seen: tuple[int, int, int]) -> None:
    assert colour_of(encoded(Image.new(mode, (4, 3), value))) == seen


def test_a_palette_with_a_transparent_entry_lies_on_white() -> None:
    image = Image.new("P", (4, 3), 1)
    image.putpalette([0, 0, 0, 9, 9, 9])
    assert colour_of(encoded(image)) == (9, 9, 9)
    assert colour_of(encoded(image, transparency=1)) == (255, 255, 255)


def test_cmyk_is_not_inverted() -> None:
    red, green, blue = colour_of(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))
    assert red > 200
    assert max(green, blue) < 60


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter to see it upright
    assert decode_image(encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif), "it").size == (4, 8)


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    assert colour_of(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])) == (255, 0, 0)


def test_content_decides_what_an_image_is() -> None:
    image = Image.new("RGB", (4, 4))
    assert [recognise_image(encoded(image, form), "it")[1] for form in ("PNG", "JPEG", "TIFF")] == [
        "png",
        "jpg",
        "tif",
    ]


@pytest.mark.parametrize("cut", [0, 10, 60])
def test_broken_files_are_refused_by_name(cut: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
    data = encoded(Image.fromarray(noise))
    with pytest.raises(UserError, match="the photo: "):
        decode_image(data[: len(data) * cut // 100], "the photo")


def test_a_web_page_is_no_image() -> None:
    with pytest.raises(UserError, match=r"a\.jpg: not an image of a known format"):
        decode_image(b"<html>404</html>", "a.jpg")


@pytest.mark.parametrize("side", [int(MAX_PIXELS**0.5) + 1, 20_000])
def test_an_image_of_too_many_pixels_is_refused_without_being_unpacked(side: int) -> None:
    with warnings.catch_warnings(action="error"), pytest.raises(UserError, match="pixels"):
        decode_image(encoded(Image.new("1", (side, side))), "a bomb")


def test_sixteen_bits_in_a_wider_mode_are_scaled_as_well() -> None:
    values = np.full((3, 4), 90 * 256, ">u2")
    assert colour_of(b"P5 4 3 65535\n" + values.tobytes()) == (90, 90, 90)


def test_values_that_are_no_numbers_do_no_harm() -> None:
    values = np.array([[0, 5, 10], [np.nan, np.inf, -np.inf]], np.float32)
    seen = np.asarray(decode_image(encoded(Image.fromarray(values), "TIFF"), "it"))
    assert seen[..., 0].tolist() == [[0, 127, 255], [0, 0, 0]]


def test_a_format_that_another_program_would_have_to_run_is_refused() -> None:
    with pytest.raises(UserError, match="not an image of a known format"):
        decode_image(encoded(Image.new("RGB", (4, 4)), "EPS"), "a program")


def test_a_large_image_within_a_small_icon_is_refused_without_being_unpacked() -> None:
    png = encoded(Image.new("1", (12_000, 12_000)))
    icon = struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(png), 22) + png
    with pytest.raises(UserError, match="144000000 pixels"):
        decode_image(icon, "an icon")


@given(form=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "ICO", "PPM", "JPEG2000"]), data=st.data())
@settings(max_examples=60, deadline=None)
def test_damage_is_refused_or_survived_but_never_a_crash(form: str, data: st.DataObject) -> None:
    whole = bytearray(encoded(Image.linear_gradient("L").resize((17, 13)).convert("RGB"), form))
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=6)):
        whole[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UserError):
        assert decode_image(bytes(whole), "it").mode == "RGB"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8, 99])
def test_the_size_is_that_of_the_decoded_image(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.new("RGB", (8, 4)), form, exif=exif)
    width, height = decode_image(data, "it").size
    assert image_size(data, "it") == (height, width)
    assert (width, height) == ((4, 8) if orientation in (6, 8) else (8, 4))


def gif_with_frame(left: int, top: int, width: int, height: int, extension: bytes = b"") -> bytes:
    """Two frames of 4x4, the second said to lie elsewhere."""
    frames = [Image.new("P", (4, 4), colour) for colour in (0, 1)]
    for frame in frames:
        frame.putpalette([9, 9, 9, 80, 80, 80])
    whole = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    second = whole.index(b",", whole.index(b",\0\0\0\0\x04") + 1)
    while whole[second + 1 : second + 9] != struct.pack("<4H", 0, 0, 4, 4):
        second = whole.index(b",", second + 1)
    return whole[:second] + extension + b"," + struct.pack("<4H", left, top, width, height) + whole[second + 9 :]


def test_a_gif_of_which_a_later_frame_reaches_far_out_is_refused_as_a_bomb() -> None:
    assert colour_of(gif_with_frame(0, 0, 4, 4)) == (9, 9, 9)
    assert colour_of(gif_with_frame(6, 6, 4, 4)) == (9, 9, 9)  # a little is borne with, as Pillow does
    for data in (gif_with_frame(0, 0, 65535, 65535), gif_with_frame(65535, 65535, 4, 4, b"!\xfe\x03a,b\0")):
        with pytest.raises(UserError, match=r"it has 655\d\dx655\d\d pixels, and the limit is"):
            decode_image(data, "a bomb")
        with pytest.raises(UserError, match="and the limit is"):
            image_size(data, "a bomb")
