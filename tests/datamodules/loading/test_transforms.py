"""Transforms of one's own: named in YAML, and drawing the same however a run is cut and spread."""

import json
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from datamodules.encoding.collate import DecodedSample
from datamodules.llava_shards import LLaVAShards
from datamodules.loading.bad_samples import BadSampleLog
from datamodules.loading.transforms import SampleTransform, describe_transforms
from datamodules.shards.sample import BadSampleError
from lit_avg.config.saved_config import read_saved
from lit_avg.utils.errors import UserError
from tests.drawn import drawn_shards
from tests.killing import fit, write_config
from tests.tiny_run import write_yaml

MINE = '''
import hashlib
import random
from dataclasses import dataclass, replace
from pathlib import Path

import lightning as L
from PIL import ImageOps

from datamodules.encoding.collate import DecodedSample
from datamodules.loading.transforms import SampleTransform


@dataclass(frozen=True)
class RandomHorizontalFlip(SampleTransform):
    """Mirrors a share of the images."""

    share: float = 0.5

    def __call__(self, decoded: DecodedSample) -> DecodedSample:
        if decoded.image is None or random.random() >= self.share:
            return decoded
        return replace(decoded, image=ImageOps.mirror(decoded.image))


class Pixels(L.Callback):
    """Writes down what each step sees."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        pixels = hashlib.sha256(batch.pixel_values.numpy().tobytes()).hexdigest()
        with self.file.open("a") as file:
            file.write(f"{trainer.global_step} {' '.join(batch.keys)} {pixels}\\n")
'''


@pytest.mark.slow
def test_a_flip_named_in_yaml_gives_the_same_pixels_with_any_workers_and_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flips.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)  # as PYTHONPATH does
    config = write_config(tmp_path, drawn_shards(tmp_path, 23), steps=10, every_steps=1)
    flip = {"class_path": "flips.RandomHorizontalFlip", "init_args": {"share": 0.5}}
    flipping = write_yaml(tmp_path / "flipping.yaml", {"data": {"init_args": {"train_transforms": [flip]}}})

    def seen(name: str, workers: int, *killed: int, flips: bool = True) -> list[str]:
        """What the steps of a run saw, which is killed at some batches and taken up again."""
        file, wanted = tmp_path / f"{name}.txt", [-signal.SIGKILL] * len(killed) + [0]
        for count, ended in zip((*killed, 99), wanted, strict=True):
            callbacks = [
                {"class_path": "tests.killing.Killed", "init_args": {"moment": "backward", "count": count}},
                {"class_path": "flips.Pixels", "init_args": {"file": str(file)}},
            ]
            options = [f"--trainer.callbacks+={json.dumps(callback)}" for callback in callbacks]
            options += ["--data.init_args.workers", str(workers), *(["--config", flipping] if flips else [])]
            assert fit(config, tmp_path / name, tmp_path, *options) == ended
        return file.read_text().splitlines()

    whole = seen("whole", 0)
    assert [line.split()[0] for line in whole] == [str(step) for step in range(1, 11)]  # of 7 an epoch
    assert seen("workers", 2) == whole
    assert seen("killed", 2, 5, 4) == whole  # in the 5th step, and in the 8th, which is the second epoch's
    unflipped = seen("plain", 0, flips=False)
    assert [line.split()[:-1] for line in unflipped] == [line.split()[:-1] for line in whole]
    assert 0 < sum(one != other for one, other in zip(unflipped, whole, strict=True)) <= 10
    assert read_saved(tmp_path / "whole" / "config.yaml")["data"]["init_args"]["train_transforms"] == [flip]


@dataclass(frozen=True)
class Shade(SampleTransform):
    """Paints an image in shades that it draws, one from each source of random numbers."""

    add: int = 0

    def __call__(self, decoded: DecodedSample) -> DecodedSample:
        drawn = random.randrange(256), np.random.randint(256), int(torch.randint(256, ()))
        shade = tuple((one + self.add) % 256 for one in drawn)
        return decoded if decoded.image is None else replace(decoded, image=Image.new("RGB", (16, 16), shade))


def refuse(decoded: DecodedSample) -> DecodedSample:
    raise BadSampleError(f"sample {decoded.sample.key} is refused after {random.random()} {np.random.random()}")


DOES: dict[str, Callable[[DecodedSample], object]] = {
    "nothing": lambda decoded: decoded,
    "refuses": refuse,
    "refuses one": lambda decoded: refuse(decoded) if decoded.sample.key == "000000003" else decoded,
    "no sample": lambda decoded: decoded.image,
    "grey": lambda decoded: replace(decoded, image=decoded.image and ImageOps.grayscale(decoded.image)),
    "no image": lambda decoded: replace(decoded, image=None),
    "array": lambda decoded: replace(decoded, image=np.asarray(decoded.image)),  # pyright: ignore[reportArgumentType]
    "nothing of it": lambda decoded: replace(decoded, image=Image.new("RGB", (0, 5))),
    "no turns": lambda decoded: replace(decoded, sample=replace(decoded.sample, turns=(("human", "Why?"),))),  # pyright: ignore[reportArgumentType]
    "kinds": lambda decoded: replace(decoded, sample=replace(decoded.sample, kinds=("number", "crowd"))),
    "another": lambda decoded: replace(decoded, sample=replace(decoded.sample, key="x")),
}


@dataclass(frozen=True)
class Does(SampleTransform):
    """Does what a test wants."""

    what: str

    def __call__(self, decoded: DecodedSample) -> DecodedSample:
        return DOES[self.what](decoded)  # pyright: ignore[reportReturnType]  some are mistakes


class Open(SampleTransform):
    """Holds what cannot be pickled."""

    def __init__(self, path: Path) -> None:
        self.file = path.open()

    def __call__(self, decoded: DecodedSample) -> DecodedSample:
        return decoded


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn_shards(tmp_path_factory.mktemp("drawn"), 12)


def data(shards: Path, *transforms: SampleTransform, workers: int = 0, seed: int = 0, size: int = 4) -> LLaVAShards:
    return LLaVAShards(
        str(shards),
        tokenizer="jersey",
        batch_size=size,
        tile_size=16,
        grid_pinpoints=None,
        test=str(shards),
        workers=workers,
        seed=seed,
        train_transforms=[*transforms],
    )


def shades(module: LLaVAShards, epoch: int = 0) -> dict[str, list[int]]:
    """The first pixel of each sample with an image."""
    stream, found = module.train_dataloader(), dict[str, list[int]]()
    stream.sampler.set_epoch(epoch)
    for batch in stream:
        pictured = [key for key, image in zip(batch.keys, batch.image_of_row.tolist(), strict=True) if image >= 0]
        found |= dict(zip(pictured, batch.pixel_values[:, 0, 0].tolist(), strict=True))
    return found


def test_what_a_transform_draws_follows_from_seed_epoch_and_key(shards: Path) -> None:
    drawn = shades(data(shards, Shade()))
    assert len({tuple(shade) for shade in drawn.values()}) == len(drawn) == 10  # of 12 samples two have no image
    assert shades(data(shards, Shade(), workers=2)) == shades(data(shards, Shade(), size=3)) == drawn
    assert shades(data(shards, Shade()), epoch=1).keys() == drawn.keys()
    assert all(shade != drawn[key] for key, shade in shades(data(shards, Shade()), epoch=1).items())
    assert all(shade != drawn[key] for key, shade in shades(data(shards, Shade(), seed=1)).items())
    second = shades(data(shards, Does("nothing"), Shade()))
    assert all(shade != drawn[key] for key, shade in second.items())  # two of a list do not draw the same


def test_what_others_draw_is_not_touched(shards: Path) -> None:
    def draws() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), float(torch.rand(()))

    for transform in (Shade(), Does("refuses")):
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        expected = draws()
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        batches = iter(data(shards, transform).train_dataloader())
        if isinstance(transform, Shade):
            next(batches)
        else:
            with pytest.raises(UserError, match="12 samples in a row are no good"):
                next(batches)
        assert draws() == expected


def test_evaluation_sees_samples_as_they_are_and_nothing_is_stored_of_transformed_ones(shards: Path) -> None:
    module, plain = data(shards, Shade()), data(shards)
    seen, expected = (next(iter(one.test_dataloader())).pixel_values for one in (module, plain))
    assert torch.equal(seen, expected)
    assert next(iter(module.sequential_batches("test", 0, 3))).keys == ["000000000", "000000001", "000000002"]
    with pytest.raises(UserError, match=r"train_transforms change training samples .* cannot be stored; take"):
        module.sequential_batches("train", 0, 3)
    assert module.encoding_settings.keys() - plain.encoding_settings.keys() == {"train_transforms"}


def test_a_run_does_not_go_on_with_other_transforms(shards: Path) -> None:
    module = f"{Shade.__module__}.Shade"
    state = data(shards, Shade(3)).train_dataloader().state_dict()
    data(shards, Shade(3)).train_dataloader().load_state_dict(state)
    for transforms, told in {(): "none", (Shade(4),): f'{module} {{"add": 4}}'}.items():
        with pytest.raises(UserError, match=f'train_transforms was {module} {{"add": 3}} and is {told}'):
            data(shards, *transforms).train_dataloader().load_state_dict(state)
        other = data(shards, *transforms).train_dataloader().state_dict()
        with pytest.raises(UserError, match=f'train_transforms was {told} and is {module} {{"add": 3}}'):
            data(shards, Shade(3)).train_dataloader().load_state_dict(other)


@pytest.mark.parametrize(
    ("does", "told"),
    [
        ("no sample", "it gave PngImageFile, but must give a DecodedSample"),
        ("grey", r"it gave an image of mode L and \d+ x \d+ pixels, but must give RGB"),
        ("array", "it gave an image that is a ndarray, but must be an RGB image of Pillow's"),
        ("nothing of it", "it gave an image of mode RGB and 0 x 5 pixels"),
        ("no turns", "it gave turns that are not all a Turn with a text"),
        ("kinds", "it gave 2 kinds for 1 rounds"),
        ("no image", "it gave a conversation with 1 <image> for 0 image"),
        ("another", "it gave sample x; which samples come when is not for a transform to say"),
    ],
)
def test_a_transform_that_gives_something_else_is_named(shards: Path, does: str, told: str) -> None:
    with pytest.raises(UserError, match=rf"train_transforms: .*Does, given sample 0000000\d\d: {told}"):
        list(data(shards, Does(does)).train_dataloader())


@dataclass(frozen=True)
class Holds(SampleTransform):
    """Holds what a test wants."""

    held: object

    def __call__(self, decoded: DecodedSample) -> DecodedSample:
        return decoded


def test_what_a_transform_holds_is_told_alike_in_every_process() -> None:
    def told(held: object) -> str:
        return describe_transforms([Holds(held)]).partition(" ")[2]

    assert told({"b", "a", "c"}) == told({"c", "a", "b"}) == '{"held": ["a", "b", "c"]}'  # hashes of words are drawn
    assert told({(1, 2): 0.5, 3: {"x": None}}) == '{"held": [[3, {"x": null}], [[1, 2], 0.5]]}'
    one, same, other = (told(torch.tensor([0.5, number])) for number in (1, 1, 2))  # a pickle has its address
    assert one == same != other


def test_a_transform_that_cannot_be_pickled_is_named(shards: Path) -> None:
    with pytest.raises(UserError, match=r"train_transforms: .*Open cannot be pickled, .*TextIOWrapper"):
        data(shards, Open(shards / "manifest.json")).train_dataloader()


def test_a_sample_that_a_transform_refuses_is_replaced(shards: Path) -> None:
    stream = data(shards, Does("refuses one")).train_dataloader()
    stream.bad_samples = BadSampleLog(None, 0, 1, allowed=1)
    keys = sorted(key for batch in stream for key in batch.keys)
    assert keys == sorted([f"{number:09d}" for number in range(12) if number != 3] + ["000000004"])
    assert stream.replaced == 1
