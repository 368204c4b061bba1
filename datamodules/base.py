"""What all data modules share: tokenizer, tiling, and a stream of batches from a folder of shards for each split."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from transformers import LlavaNextProcessor, PreTrainedTokenizerFast

from datamodules.encoding.collate import Collate, SampleEncoder
from datamodules.encoding.conversation import VICUNA_SYSTEM_PROMPT, ConversationRenderer
from datamodules.encoding.hf_processor import llava_next_processor
from datamodules.encoding.prompt_format import Wording, wording
from datamodules.encoding.tiling import CLIP_MEAN, CLIP_STD, Normalisation, Tiling
from datamodules.encoding.tokenizer import load_tokenizer
from datamodules.loading.bad_samples import BadSampleLog
from datamodules.loading.batch_sampler import ShardBatchSampler
from datamodules.loading.length_grouping import Lengths, lengths_of_all
from datamodules.loading.loader import ResumableLoader
from datamodules.loading.mixture import WeightedConcatDataset
from datamodules.loading.sequential import sequential_batches
from datamodules.loading.transforms import TRANSFORMS, SampleTransform, describe_transforms
from datamodules.shards.cache import ShardCache
from datamodules.shards.download import is_remote
from datamodules.shards.sources import SHARDS_AT_ONCE, check_room, may_be_there
from datamodules.sizes import ExpectedSamples, expected_sizes, sizes_in_shards, why_not
from datamodules.splits import Splits
from lit_avg.batch import Batch
from lit_avg.data import SampleSizes, Split
from lit_avg.utils.arguments import check_counts, check_number, check_seed
from lit_avg.utils.cache_folder import default_cache
from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import hash_of
from lit_avg.visual_tokens.anyres import VisualLayout

VALIDATED_ON = "validated_on"
"""Entry of a data module's state: SHA-256 of the validation samples, None as long as nothing was validated."""


class ShardsDataModule(Splits):
    """Batches from shards; a subclass says where the shards of each split are.

    A location of shards is a folder, a range of tar files, a URL or a command: see `datamodules.shards.sources`.

    Args:
        tokenizer: hub id, folder, or the name of one that ships with the project (`jersey`).
        batch_size: samples (not questions) a step on each rank.
        tile_size: the vision encoder's native size in pixels.
        grid_pinpoints: (height, width) of the planes an image may be fitted into, None for a single view.
        template: `vicuna`, `llama3`, `qwen2`, `plain` (captions, as in stage 1), or a file with a chat template that
            marks its answers.
        system_prompt: what a conversation without a system turn begins with; None for nothing.
        max_length: longest text in tokens, the image counted as one; what is longer ends with the last answer that
            fits whole.
        independent_turns: the rounds of a sample do not depend on each other: each is a question, `<key>/0` and on.
        pack_questions: independent questions share a row, behind one visual prefix.
        workers: processes that read and decode; they change nothing but the speed.
        seed: of the training order.
        image_mean: what is subtracted from each channel, pixels being 0 to 1.
        image_std: what each channel is divided by then.
        eval_batch_size: samples a step when nothing is trained; `batch_size` if not given.
        group_by_length: train on batches of similar length, with images or without; less padding, and another order.
        max_bad_share: so large a share of the training samples may turn out to be no good, and others stand in for
            them; one more ends the run.
        shard_cache: folder for shards from elsewhere, shared by all runs; `shards` in $LIT_AVG_CACHE or
            ~/.cache/lit_avg if not given.
        cache_gb: what that folder may hold; the shard used longest ago makes room.
        train_transforms: what training samples go through before they become tokens and tiles, in this order; see
            `datamodules.loading.transforms`.
    """

    expected: ClassVar[ExpectedSamples] = ExpectedSamples()
    """What `lit-avg plan` counts with where the shards are not here."""

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
        group_by_length: bool = False,
        max_bad_share: float = 0.01,
        shard_cache: str | None = None,
        cache_gb: float = 100.0,
        train_transforms: list[SampleTransform] | None = None,
    ) -> None:
        super().__init__()
        self._validated_on: str | None = None
        self.tokenizer = tokenizer
        check_counts({"batch_size": batch_size, "eval_batch_size": eval_batch_size, "max_length": max_length})
        check_counts({"workers": workers}, least=0)
        check_seed("data: seed", seed)
        check_number("max_bad_share", max_bad_share, least=0, most=1)
        check_number("cache_gb", cache_gb, above=0)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.template, self.system_prompt, self.max_length = template, system_prompt, max_length
        self.independent_turns = independent_turns
        self.group_by_length, self.max_bad_share = group_by_length, max_bad_share
        self.workers, self.seed = workers, seed
        self.train_transforms = tuple(train_transforms or ())
        self.tile_size, self.grid_pinpoints = tile_size, grid_pinpoints
        self.image_mean, self.image_std = image_mean, image_std
        self.tiling = Tiling(tile_size, grid_pinpoints)
        self.normalise = Normalisation(image_mean, image_std)
        self.collate = Collate(tile_size, pack_questions)
        folder = Path(shard_cache) if shard_cache else default_cache() / "shards"
        self.shard_cache = ShardCache(folder, int(cache_gb * 1e9))

    @cached_property
    def tokenizer_object(self) -> PreTrainedTokenizerFast:
        """The tokenizer itself.

        Raises:
            UserError: there is none of that name.
        """
        return load_tokenizer(self.tokenizer)

    @cached_property
    def encoder(self) -> SampleEncoder:
        """Makes tokens and pixels of a sample, all its questions."""
        renderer = ConversationRenderer(self.tokenizer_object, self.template, self.system_prompt, self.max_length)
        return SampleEncoder(renderer, self.tiling, self.independent_turns)

    def encoder_of(self, split: Split) -> SampleEncoder:
        """The same with the questions that a split asks."""
        whole = self.encoder
        return SampleEncoder(whole.renderer, whole.tiling, whole.independent_turns, self.kinds(split))

    def processor(self, patch_size: int, feature_selection: str) -> LlavaNextProcessor:
        """transformers' processor for models trained on this data; arguments as in `llava_next_processor`.

        Raises:
            UserError: images are a single view, which LLaVA-NeXT's processor does not know.
        """
        if self.grid_pinpoints is None:
            raise UserError("a LLaVA-NeXT processor tiles its images, but this data has grid_pinpoints: null")
        return llava_next_processor(
            self.encoder.renderer.tokenizer,
            self.encoder.renderer.encode.template,
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

    def denormalise(self, pixel_values: Tensor) -> Tensor:
        """Shades of 0 to 1 again, (..., 3, S, S) on the CPU."""
        return self.normalise.undo(pixel_values)

    @property
    def end_token(self) -> int:
        """The token that ends every answer."""
        return self.encoder.renderer.end_token

    @property
    def longest_text(self) -> int:
        """Tokens of a conversation at most, its image counted as one."""
        return self.max_length

    def longest_sequence(self, layout: VisualLayout) -> int:
        """The same with the image as it is at the finest granularity, filling the largest of the planes."""
        side, finest = self.tile_size, len(layout.granularities) - 1
        planes = [((height // side, width // side), (height, width)) for height, width in self.tiling.planes]
        return self.longest_text - 1 + max(layout.count(*plane, finest) for plane in planes or [((0, 0), (side, side))])

    @cached_property
    def wording(self) -> Wording:
        """How conversations become tokens."""
        renderer = self.encoder.renderer
        return wording(self.template, renderer.template, self.system_prompt, self.tokenizer, renderer.tokenizer)

    def state_dict(self) -> dict[str, Any]:
        """What checkpoints keep of the data (Lightning asks)."""
        return {**self.wording.state(), VALIDATED_ON: self._validated_on}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with, or to evaluate, what was trained with other words.

        A fit that goes on has to validate on the same samples as well, or early stopping would compare two data sets.

        Raises:
            UserError: names what differs.
        """
        self.wording.check_same_as(state_dict)
        if self._fits:
            self._validated_on = state_dict.get(VALIDATED_ON)

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled anew each epoch, whole batches only.

        Raises:
            UserError: there is no training split.
        """
        if (stream := self._stream("train", training=True)) is None:
            raise UserError("there is no training data; give the data module its folder of shards")
        return stream

    def val_dataloader(self) -> ResumableLoader | list[ResumableLoader]:
        """Every validation sample once; nothing if there is no such split.

        Raises:
            UserError: a fit that goes on was validated on other samples before.
        """
        if (stream := self._stream("val")) is None:
            return []
        if self._fits:
            digest, before = self.data_digest("val"), self._validated_on
            if before not in (None, digest):
                raise UserError(
                    "the validation split has other samples than this run was validated on before "
                    f"({str(before)[:12]} -> {str(digest)[:12]}); bring those back, or begin anew with --overwrite"
                )
            self._validated_on = digest
        return stream

    def test_dataloader(self) -> ResumableLoader:
        """Every test sample once.

        Raises:
            UserError: there is no test split.
        """
        if (stream := self._stream("test")) is None:
            raise UserError("there is no test data; give the data module its folder of shards")
        return stream

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Shades to `pixel_values`, on the device they were sent to as bytes (Lightning calls this)."""
        return replace(batch, pixel_values=self.normalise(batch.pixel_values))

    def predict_dataloader(self) -> ResumableLoader:
        """What a test sees."""
        return self.test_dataloader()

    @property
    def encoding_settings(self) -> dict[str, str]:
        """What makes tokens and pixels of a sample, by name; long things by their hash."""
        renderer = self.encoder.renderer  # it adds `<image>` to the tokenizer, so it comes before the hash
        backend = renderer.tokenizer.backend_tokenizer.to_str()
        transforms = {TRANSFORMS: describe_transforms(self.train_transforms)} if self.train_transforms else {}
        return {
            **transforms,
            "tokenizer": hash_of(backend, 16),
            "template": hash_of(renderer.template, 16),
            "system prompt": self.system_prompt or "",
            "max_length": str(self.max_length),
            "independent_turns": str(self.independent_turns),
            "pack_questions": str(self.collate.pack_questions),
            "tile_size": str(self.tile_size),
            "grid_pinpoints": str(self.grid_pinpoints),
            "image_mean and image_std": f"{list(self.image_mean)} {list(self.image_std)}",
        }

    def sample_count(self, split: Split) -> int:
        """Samples of a split."""
        return len(self.samples(split))

    def share(self, split: Split) -> float:
        """The share of an expected data set that a split has."""
        return float(split == "train")

    def sample_sizes(self, split: Split, quickly: bool = False) -> SampleSizes | None:
        """As in `ShardsData`. Shards elsewhere are not fetched for it."""
        sources, share = self.sources(split), self.share(split)
        here = [not is_remote(source.shards) and may_be_there(source.shards) for source in sources]
        expected = expected_sizes(self.expected, self.tiling, share, self.max_length) if share else None
        if not (sources and all(here)):
            return expected
        samples = self.samples(split)
        if not len(samples):
            return None
        if quickly and expected is not None:
            return replace(expected, samples=len(samples))
        try:
            encode = self.encoder_of(split)
        except UserError as error:  # the tokenizer cannot be had here, and a plan can do without
            encode = why_not(error)
        return sizes_in_shards(
            samples.parts, [source.weight for source in sources], encode, self.tiling, self.longest_text
        )

    def sequential_batches(self, split: Split, begin: int, end: int) -> Iterable[Batch]:
        """The samples from `begin` to before `end`, each once; those that are no good are left out.

        Raises:
            UserError: training samples are to be transformed, so that what is computed once is not of them.
        """
        if split == "train" and self.train_transforms:
            raise UserError(
                f"{TRANSFORMS} change training samples from epoch to epoch, so their feedback cannot be stored; take "
                f"{TRANSFORMS} out, or have the feedback computed in training (feedback: null)"
            )
        return sequential_batches(
            self.samples(split), self.encoder_of(split), self.collate, (begin, end), self.eval_batch_size, self.workers
        )

    def _stream(self, split: Split, training: bool = False) -> ResumableLoader | None:
        if not (sources := self.sources(split)):
            return None
        samples = self.samples(split)
        if not len(samples):
            raise UserError(self.why_empty(split))
        read_at_once = [part.source for part in samples.parts]
        for together in [read_at_once] if training else [[one] for one in read_at_once]:
            check_room(together, SHARDS_AT_ONCE if training else 1)
        rank, ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        order = ShardBatchSampler(
            samples.sources([source.weight for source in sources]),
            self.batch_size if training else self.eval_batch_size,
            training,
            self.seed,
            rank,
            ranks,
            self._lengths(samples) if training and self.group_by_length else None,
        )
        run = Path(self.trainer.default_root_dir) if self.trainer and training else None
        bad_samples = BadSampleLog(run, rank, ranks, int(self.max_bad_share * len(samples)))
        shown = {**self.encoding_settings, "kinds of questions": " ".join(self.kinds(split) or ("all",))}
        return ResumableLoader(
            samples,
            order,
            self.encoder_of(split),
            self.collate,
            self.workers,
            replace=training,
            transforms=self.train_transforms if training else (),
            bad_samples=bad_samples,
            shown=shown,
        )

    @property
    def _fits(self) -> bool:
        return self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING

    def _lengths(self, samples: WeightedConcatDataset) -> Lengths:
        return lengths_of_all(samples.parts, self.tile_size, self.tiling.planes, self.max_length)
