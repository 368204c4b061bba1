"""Training and `generate` see the same pixels of an image, whatever its mode and however it was opened."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.encoding.image_decoding import decode_image
from datamodules.llava_shards import LLaVAShards
from datamodules.shards.sample import Sample, Turn
from lit_avg.inputs.image_decoding import upright_rgb
from lit_avg.llava_next.prompts import PromptEncoder
from lit_avg.utils.errors import UserError

DATA = LLaVAShards(
    "nowhere", tokenizer="jersey", batch_size=1, tile_size=16, grid_pinpoints=[[16, 32], [32, 16], [32, 32]]
)
ENCODE = PromptEncoder(DATA.processor(patch_size=4, feature_selection="default"))
QUESTION = "which number is on the player ?"
NOISE = np.random.default_rng(0).integers(0, 256, (23, 37, 4), dtype=np.uint8)


def image(mode: str) -> Image.Image:
    """Noise in any of Pillow's modes, with an alpha channel where there is one."""
    colours = Image.fromarray(NOISE[..., :3])
    with_alpha = Image.fromarray(NOISE, "RGBA")
    grey = NOISE[..., 0]
    made = {
        "RGBa": lambda: with_alpha.convert("RGBa"),
        "La": lambda: with_alpha.convert("LA").convert("La"),
        "PA": lambda: with_alpha.convert("LA").convert("PA"),
        "P+tRNS": lambda: transparent(colours.quantize(16)),
        "L+tRNS": lambda: transparent(colours.convert("L")),
        "RGB+tRNS": lambda: transparent(colours, tuple(NOISE[0, 0, :3].tolist())),
        "I;16": lambda: Image.fromarray(grey.astype(np.uint16) * 257),
        "I": lambda: Image.fromarray(grey.astype(np.int32) * 3 - 90),
        "I of 16 bits": lambda: Image.fromarray(grey.astype(np.int32) * 257),
        "F": lambda: Image.fromarray(grey.astype(np.float32) / 255),
        "LAB": lambda: Image.fromarray(NOISE[..., :3], "LAB"),
        "RGBA": lambda: with_alpha,
        "LA": lambda: with_alpha.convert("LA"),
    }
    return made[mode]() if mode in made else colours.convert(mode)


def transparent(made: Image.Image, colour: object = 0) -> Image.Image:
    made.info["transparency"] = colour
    return made


MODES = ["RGB", "RGBA", "RGBa", "LA", "La", "L", "1", "P", "PA", "P+tRNS", "L+tRNS", "RGB+tRNS", "CMYK", "I;16", "I"]
MODES += ["I of 16 bits", "F", "YCbCr", "LAB", "HSV", "RGBX"]

FILES = {"RGB": ["PNG", "JPEG", "WEBP", "GIF", "BMP"], "RGBA": ["PNG", "WEBP", "TIFF"], "LA": ["PNG"], "L": ["PNG"]}
FILES |= {"1": ["PNG", "TIFF"], "P": ["PNG", "GIF"], "P+tRNS": ["PNG", "GIF"], "L+tRNS": ["PNG"], "RGB+tRNS": ["PNG"]}
FILES |= {"CMYK": ["JPEG", "TIFF"], "I;16": ["PNG", "TIFF"], "I": ["TIFF"], "F": ["TIFF"], "YCbCr": ["TIFF", "JPEG"]}
FILES |= {"LAB": ["TIFF"]}
CASES = [(mode, form, 1) for mode, forms in FILES.items() for form in forms]
CASES += [("RGB", form, turned) for form in ("JPEG", "PNG", "TIFF", "WEBP") for turned in range(2, 9)]


def encoded(mode: str, form: str, orientation: int) -> bytes:
    file, made, exif = io.BytesIO(), image(mode), Image.Exif()
    exif[0x0112] = orientation
    options = {"transparency": made.info["transparency"]} if "transparency" in made.info else {}
    frames = {"save_all": True, "append_images": [Image.new("RGB", made.size)]} if form == "GIF" else {}
    made.save(file, form, **options, **frames, **({"exif": exif} if orientation > 1 else {}))
    return file.getvalue()


@pytest.mark.parametrize(("mode", "form", "orientation"), CASES)
def test_training_and_generate_see_the_same_of_a_file(mode: str, form: str, orientation: int) -> None:
    data = encoded(mode, form, orientation)
    sample = Sample("000000000", (Turn("human", f"<image>\n{QUESTION}"), Turn("gpt", "42")), (), data)
    taught = DATA.collate([DATA.encoder(sample)])
    taught = DATA.on_after_batch_transfer(taught, 0)
    asked = ENCODE([Image.open(io.BytesIO(data))], [QUESTION])
    assert torch.equal(asked.pixel_values, taught.pixel_values)
    assert (asked.tile_grids, asked.image_sizes.tolist()) == (taught.tile_grids, taught.image_sizes.tolist())
    before = asked.input_ids.shape[1]
    assert torch.equal(asked.input_ids, taught.input_ids[:, :before])
    assert torch.equal(asked.instruction, taught.instruction[:, :before])
    assert torch.equal(asked.question, taught.question[:, :before])


@pytest.mark.parametrize("mode", MODES)
def test_an_image_in_memory_is_seen_as_its_colours_are(mode: str) -> None:
    seen = np.asarray(upright_rgb(image(mode))).astype(int)
    assert seen.shape == (23, 37, 3)
    alpha = NOISE[..., 3:].astype(float) / 255
    colours = NOISE[..., :3].astype(float)
    if mode in ("RGBA", "RGBa"):
        assert np.abs(seen - (colours * alpha + 255 * (1 - alpha))).max() <= 2
    elif mode in ("LA", "La"):
        grey = np.asarray(Image.fromarray(NOISE[..., :3]).convert("L")).astype(float)[..., None]
        assert np.abs(seen - (grey * alpha + 255 * (1 - alpha))).max() <= 2
    elif mode in ("I;16", "I", "I of 16 bits", "F"):
        grey = NOISE[..., :1].astype(float)
        stretched = grey if "16" in mode else (grey - grey.min()) * 255 / (grey.max() - grey.min())
        assert np.abs(seen - stretched).max() <= 1
    elif mode == "RGB+tRNS":
        assert seen[0, 0].tolist() == [255, 255, 255]
        assert np.array_equal(seen[1:], NOISE[1:, :, :3])
    elif mode in ("RGB", "RGBX"):
        assert np.array_equal(seen, NOISE[..., :3])


def test_an_image_that_cannot_be_decoded_is_told() -> None:
    data = encoded("RGB", "PNG", 1)
    with pytest.raises(UserError, match="image 0 cannot be decoded"):
        ENCODE([Image.open(io.BytesIO(data[: len(data) // 2]))], [QUESTION])


def test_the_first_frame_is_taken() -> None:
    data = encoded("RGB", "GIF", 1)
    assert np.asarray(decode_image(data, "it")).std() > 10  # the second is black
