"""What all data modules share: tokenizer, tiling, and a stream of batches from a folder of shards for each split."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, cast

import lightning as L
from torch import Tensor
from transformers import AutoTokenizer, LlavaNextProcessor, PreTrainedTokenizerFast

from datamodules.collate import Collate, SampleEncoder
from datamodules.conversation import VICUNA_SYSTEM_PROMPT, ConversationRenderer
from datamodules.images import CLIP_MEAN, CLIP_STD, Tiling
from datamodules.processor import llava_next_processor
from datamodules.shards import ShardedSamples, read_manifest
from datamodules.stream import BatchStream, EncodedSamples, EpochOrder
from datamodules.stretch import stretch
from lit_avg.batch import Batch
from lit_avg.errors import UserError

Split = Literal["train", "val", "test"]

SPLITS: tuple[Split, ...] = ("train", "val", "test")

TOKENIZERS = Path(__file__).parent / "tokenizers"
"""Tokenizers that ship with the project, one folder each."""


class ShardsDataModule(L.LightningDataModule):
    """Batches from shards; a subclass says where the shards of each split are.

    Args:
        tokenizer: hub id, folder, or the name of one that ships with the project (`jersey`).
        batch_size: samples (not questions) a step on each rank.
        tile_size: the vision encoder's native size in pixels.
        grid_pinpoints: (height, width) of the planes a picture may be fitted into, None for a single view.
        template: chat template, as in `ConversationRenderer`.
        system_prompt: what a conversation without a system turn begins with; None for nothing.
        max_length: longest text in tokens, as in `ConversationRenderer`.
        independent_turns: the rounds of a sample do not depend on each other: each is a question, `<key>/0` and on.
        pack_questions: independent questions share a row, behind one visual prefix.
        workers: processes that read and decode; they change nothing but the speed.
        seed: of the training order.
        image_mean: what is subtracted from each channel, pixels being 0 to 1.
        image_std: what each channel is divided by then.
        eval_batch_size: samples a step when nothing is trained; `batch_size` if not given.
    """

    def __init__(
        self,
        tokenizer: str,
        batch_size: int,
        tile_size: int,
        grid_pinpoints: list[list[int]] | None,
        template: str = "vicuna",
        system_prompt: str | None = VICUNA_SYSTEM_PROMPT,
        max_length: int = 4096,
        independent_turns: bool = False,
        pack_questions: bool = True,
        workers: int = 0,
        seed: int = 0,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        eval_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.template, self.system_prompt, self.max_length = template, system_prompt, max_length
        self.independent_turns = independent_turns
        self.workers = workers
        self.seed = seed
        self.tile_size, self.grid_pinpoints = tile_size, grid_pinpoints
        self.image_mean, self.image_std = image_mean, image_std
        self.tiling = Tiling(tile_size, grid_pinpoints, image_mean, image_std)
        self.collate = Collate(tile_size, pack_questions)

    def folder(self, split: Split) -> Path | None:
        """The shards of a split, None if there is no such split."""
        raise NotImplementedError

    def keeps(self, split: Split) -> Callable[[str], bool] | None:
        """Which samples of `folder(split)` belong to the split, by key; None for all."""
        return None

    @cached_property
    def tokenizer_object(self) -> PreTrainedTokenizerFast:
        """The tokenizer itself.

        Raises:
            UserError: there is none of that name.
        """
        shipped = TOKENIZERS / self.tokenizer
        source = str(shipped) if shipped.is_dir() else self.tokenizer
        try:
            return cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(source, use_fast=True))
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"tokenizer: {self.tokenizer} cannot be loaded: {reason}") from error

    @cached_property
    def encoder(self) -> SampleEncoder:
        """Makes tokens and pixels of a sample."""
        renderer = ConversationRenderer(self.tokenizer_object, self.template, self.system_prompt, self.max_length)
        return SampleEncoder(renderer, self.tiling, self.independent_turns)

    def processor(self, patch_size: int, feature_selection: str) -> LlavaNextProcessor:
        """transformers' processor for models trained on this data; arguments as in `llava_next_processor`.

        Raises:
            UserError: pictures are a single view, which LLaVA-NeXT's processor does not know.
        """
        if self.grid_pinpoints is None:
            raise UserError("a LLaVA-NeXT processor tiles its pictures, but this data has grid_pinpoints: null")
        return llava_next_processor(
            self.encoder.renderer.tokenizer,
            self.encoder.renderer.template,
            self.system_prompt,
            self.tile_size,
            self.grid_pinpoints,
            self.image_mean,
            self.image_std,
            patch_size,
            feature_selection,
        )

    def decode(self, ids: Tensor) -> str:
        """Token ids (T,) to text, without special tokens; negative ids, which are none, are left out."""
        return cast(str, self.tokenizer_object.decode(ids[ids >= 0].tolist(), skip_special_tokens=True)).strip()

    @property
    def manifest_hash(self) -> str:
        """16 hex digits that name the data of all splits."""
        folders = [folder for split in SPLITS if (folder := self.folder(split)) is not None]
        digests = [read_manifest(folder).digest for folder in folders]
        return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]

    def train_dataloader(self) -> BatchStream:
        """Shuffled anew each epoch, whole batches only.

        Raises:
            UserError: there is no training split.
        """
        stream = self._stream("train", training=True)
        if stream is None:
            raise UserError("there is no training data; give the data module its folder of shards")
        return stream

    def val_dataloader(self) -> BatchStream | list[BatchStream]:
        """Every validation sample once; nothing if there is no such split."""
        return self._stream("val") or []

    def test_dataloader(self) -> BatchStream:
        """Every test sample once.

        Raises:
            UserError: there is no test split.
        """
        stream = self._stream("test")
        if stream is None:
            raise UserError("there is no test data; give the data module its folder of shards")
        return stream

    def predict_dataloader(self) -> BatchStream:
        """What a test sees."""
        return self.test_dataloader()

    @property
    def text_and_pixels(self) -> dict[str, str]:
        """What makes tokens and pixels of a sample, by name; long things by their hash."""
        backend = self.tokenizer_object.backend_tokenizer.to_str()
        template = self.encoder.renderer.template
        return {
            "tokenizer": hashlib.sha256(backend.encode()).hexdigest()[:16],
            "template": hashlib.sha256(template.encode()).hexdigest()[:16],
            "system prompt": self.system_prompt or "",
            "max_length": str(self.max_length),
            "independent_turns": str(self.independent_turns),
            "pack_questions": str(self.collate.pack_questions),
            "tile_size": str(self.tile_size),
            "grid_pinpoints": str(self.grid_pinpoints),
            "image_mean and image_std": f"{list(self.image_mean)} {list(self.image_std)}",
        }

    def data_digest(self, split: Split) -> str | None:
        """SHA-256 of which samples a split has; None if there is no such split."""
        if self.folder(split) is None:
            return None
        samples = self._samples(split)
        return hashlib.sha256(samples.manifest.digest.encode() + samples.numbers.tobytes()).hexdigest()

    def sample_count(self, split: Split) -> int:
        """Samples of a split."""
        return len(self._samples(split))

    def stretch(self, split: Split, begin: int, end: int) -> Iterable[Batch]:
        """The samples from `begin` to before `end`, each once; those without room for their answer are left out."""
        return stretch(
            self._samples(split), self.encoder, self.collate, (begin, end), self.eval_batch_size, self.workers
        )

    def _samples(self, split: Split) -> ShardedSamples:
        folder = self.folder(split)
        if folder is None:
            raise UserError(f"there is no {split} split; give the data module its folder of shards")
        return ShardedSamples(folder, self.keeps(split))

    def _stream(self, split: Split, training: bool = False) -> BatchStream | None:
        folder = self.folder(split)
        if folder is None:
            return None
        samples = ShardedSamples(folder, self.keeps(split))
        rank, ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        size = self.batch_size if training else self.eval_batch_size
        order = EpochOrder(samples.shard_of_sample, size, training, self.seed, rank, ranks)
        return BatchStream(EncodedSamples(samples, self.encoder, replace=training), order, self.collate, self.workers)
