"""Samples to a `Batch`: encode each, then lay rows, images and questions side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from datamodules.encoding.conversation import ConversationRenderer, NoRoomError
from datamodules.encoding.image_decoding import decode_image
from datamodules.encoding.tiling import TiledImage, Tiling
from datamodules.shards.reader import NO_KIND
from datamodules.shards.sample import BadSampleError, Sample, Turn
from lit_avg.batch import IGNORED_LABEL, PADDING, PREFIX, Batch
from lit_avg.inputs.chat_encoding import TokenizedConversation
from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import hash_of


@dataclass(frozen=True)
class Question:
    """What is answered, judged and routed: one dialogue, or one round of a sample of independent rounds."""

    key: str
    kind: str
    answer: str  # the last one of a dialogue
    rendering: TokenizedConversation
    source: str = ""  # of the sample


@dataclass(frozen=True)
class EncodedSample:
    """A sample as tokens and pixels."""

    questions: tuple[Question, ...]
    image: TiledImage | None
    image_hash: str = ""  # of the image's file
    repeated: bool = False  # shown before, and again only for every rank to have equally many


@dataclass(frozen=True)
class DecodedSample:
    """A sample with its image's pixels."""

    sample: Sample  # its conversation, and the image's file as it came
    image: Image.Image | None  # RGB, the right way up


def decode_sample(sample: Sample) -> DecodedSample:
    """Decode the image, if there is one.

    Raises:
        BadSampleError: it cannot be decoded.
    """
    if sample.image is None:
        return DecodedSample(sample, None)
    try:
        return DecodedSample(sample, decode_image(sample.image, f"sample {sample.key}"))
    except UserError as error:
        raise BadSampleError(str(error)) from error


class SampleEncoder:
    """Turns samples into tokens and pixels.

    Args:
        renderer: for the conversation.
        tiling: for the image.
        independent_turns: the rounds of a sample do not depend on each other, so each is a question of its own.
        kinds: ask questions of these kinds alone; None for all.
    """

    def __init__(
        self,
        renderer: ConversationRenderer,
        tiling: Tiling,
        independent_turns: bool = False,
        kinds: Sequence[str] | None = None,
    ) -> None:
        self.renderer = renderer
        self.tiling = tiling
        self.independent_turns = independent_turns
        self.kinds = kinds

    def __call__(self, sample: Sample) -> EncodedSample:
        """Decode and encode one sample.

        Raises:
            BadSampleError: as in `decode_sample` and `encode`.
        """
        return self.encode(decode_sample(sample))

    def encode(self, decoded: DecodedSample) -> EncodedSample:
        """Encode one sample.

        Raises:
            NoRoomError: an answer does not fit into the maximum length.
            BadSampleError: its words cannot be written as text or not by the template, or there is no question of the
                wanted kinds.
        """
        sample = decoded.sample
        try:
            asked = self.questions(sample, decoded.image is not None)
            questions = tuple(one for one in asked if self.kinds is None or one.kind in self.kinds)
        except NoRoomError as error:
            raise NoRoomError(f"sample {sample.key}: {error}; raise max_length or leave the sample out") from error
        except BadSampleError as error:
            raise BadSampleError(f"sample {sample.key}: {error}") from error
        if not questions:
            raise BadSampleError(f"sample {sample.key} has no question of the kinds {', '.join(self.kinds or ())}")
        if decoded.image is None:
            return EncodedSample(questions, None)
        return EncodedSample(questions, self.tiling(decoded.image), hash_of(sample.image, 16) if sample.image else "")

    def questions(self, sample: Sample, has_image: bool) -> Iterator[Question]:
        """What a sample asks, of whatever kinds. Raises as `encode`."""
        if not self.independent_turns:
            rendering = self.renderer(sample.turns, has_image)
            yield _question(sample.key, sample.kinds[-1:], rendering, sample.turns[-1], sample.source)
            return
        for number, (asked, answered) in enumerate(sample.rounds):
            rendering = self.renderer((*sample.system, asked, answered), has_image)
            yield _question(
                f"{sample.key}/{number}", sample.kinds[number : number + 1], rendering, answered, sample.source
            )


def _question(
    key: str, kinds: tuple[str, ...], rendering: TokenizedConversation, answered: Turn, source: str
) -> Question:
    return Question(key, kinds[0] if kinds else NO_KIND, answered.text.strip(), rendering, source)


@dataclass(frozen=True)
class Row:
    """T tokens that the LLM reads as one sequence; fields as in `Batch`."""

    input_ids: Tensor
    labels: Tensor
    question: Tensor
    instruction: Tensor
    image: int


@dataclass(frozen=True)
class Collate:
    """Makes a batch of encoded samples.

    Args:
        tile_size: S, for batches without any image.
        pack_questions: questions of one sample share a row, behind one prefix; else each has a row of its own, and
            the sample's image is still encoded once.
    """

    tile_size: int
    pack_questions: bool = True

    def __call__(self, samples: Sequence[EncodedSample]) -> Batch:
        """Lay everything side by side, in the order of the samples."""
        images = [sample.image for sample in samples if sample.image is not None]
        hashes = [sample.image_hash for sample in samples if sample.image is not None]
        questions = [question for sample in samples for question in sample.questions]
        rows = list(self._rows(samples))
        no_pixels = np.zeros((0, self.tile_size, self.tile_size, 3), np.uint8)
        return Batch(
            input_ids=pad_sequence([row.input_ids for row in rows], batch_first=True),
            labels=pad_sequence([row.labels for row in rows], batch_first=True, padding_value=IGNORED_LABEL),
            question=pad_sequence([row.question for row in rows], batch_first=True, padding_value=PADDING),
            instruction=pad_sequence([row.instruction for row in rows], batch_first=True),
            image_of_row=torch.tensor([row.image for row in rows]),
            pixel_values=torch.from_numpy(np.concatenate([no_pixels, *(image.shades for image in images)])),
            tile_grids=[image.tile_grid for image in images],
            image_sizes=torch.tensor([image.image_size for image in images], dtype=torch.long).view(-1, 2),
            keys=[question.key for question in questions],
            kinds=[question.kind for question in questions],
            answers=[question.answer for question in questions],
            sources=[question.source for question in questions],
            image_hashes=hashes if all(hashes) else [],
            repeated=[sample.repeated for sample in samples for _ in sample.questions],
        )

    def _rows(self, samples: Sequence[EncodedSample]) -> Iterator[Row]:
        first, images = 0, 0
        for sample in samples:
            image = -1 if sample.image is None else images
            renderings = [question.rendering for question in sample.questions]
            together = [renderings] if self.pack_questions else [[rendering] for rendering in renderings]
            for shared in together:
                yield _row(shared, first, image)
                first += len(shared)
            images += sample.image is not None


def _row(renderings: Sequence[TokenizedConversation], first: int, image: int) -> Row:
    """One prefix, and behind it what each question adds to it; `first` is the number of the first question."""
    prefix = renderings[0].prefix
    begins = [0 if number == 0 else prefix for number in range(len(renderings))]
    own = [torch.full((len(one.input_ids) - prefix,), first + number) for number, one in enumerate(renderings)]
    pairs = list(zip(renderings, begins, strict=True))
    input_ids = torch.cat([one.input_ids[begin:] for one, begin in pairs])
    answer = torch.cat([one.answer[begin:] for one, begin in pairs])
    return Row(
        input_ids=input_ids,
        labels=torch.where(answer, input_ids, IGNORED_LABEL),
        question=torch.cat([torch.full((prefix,), PREFIX), *own]),
        instruction=torch.cat([one.instruction[begin:] for one, begin in pairs]),
        image=image,
    )
