"""One record to a sample that can be packed, or to the reason why not.

Every image is decoded once, so that what is packed can be trained on. Its bytes are packed as they are, unless
smaller ones are asked for.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from PIL import Image

from datamodules.encoding.image_decoding import recognise_image
from datamodules.packing.cleaning import clean_turns, image_name
from datamodules.packing.names import RefusedError
from datamodules.packing.presets import Preset
from datamodules.packing.records import Record
from datamodules.packing.roots import ImageFile, Images
from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import hash_of

DEFAULT_QUALITY = 95
"""Of the JPEGs that images become which are made smaller."""


class Packable(NamedTuple):
    """A record that has been found good."""

    record: bytes  # the sample's JSON
    image: bytes | None
    extension: str  # of the image, empty without one
    origin: str = (
        ""  # decides its split: the sha256 of the image, so that no two splits share one, or else of the record
    )
    root: int = -1  # where the image is from, -1 without one
    read: int = 0  # bytes of the image as it lay there
    rounds: int = 0
    left_out: tuple[str, ...] = ()  # what was done to make the conversation whole
    named: str = ""  # the sha256 of the image's name and content, empty without one


class Refusal(NamedTuple):
    """A record that cannot be packed."""

    id: Any  # as in the record, None if there is none
    source: str
    reason: str


@dataclass(frozen=True)
class Resizing:
    """How images are written anew; by default none is."""

    max_side: int | None = None  # larger ones are made as small as this, in pixels
    quality: int | None = None  # every image becomes a JPEG of this quality; if None, only those made smaller

    def __post_init__(self) -> None:
        if self.max_side is not None and self.max_side < 1:
            raise UserError(f"--max-side is a number of pixels, but is {self.max_side}")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise UserError(f"--quality is a JPEG quality from 1 to 100, but is {self.quality}")

    def __call__(self, data: bytes, name: str) -> tuple[bytes, str]:
        """The bytes to pack, and their extension.

        Args:
            data: an image file.
            name: what the message calls it.

        Raises:
            UserError: it cannot be decoded.
        """
        image, extension = recognise_image(data, name)
        too_large = self.max_side is not None and max(image.size) > self.max_side
        if not too_large and self.quality is None:
            return data, extension
        if too_large and self.max_side is not None:
            image.thumbnail((self.max_side, self.max_side), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=self.quality or DEFAULT_QUALITY)
        return file.getvalue(), "jpg"


@dataclass(frozen=True)
class Examiner:
    """Makes samples of records, in whichever process.

    Args:
        images: where they are read from.
        preset: what the data set is known for.
        resizing: how images are written anew.
    """

    images: Images
    preset: Preset
    resizing: Resizing

    def __call__(self, records: Sequence[Record]) -> list[Packable | Refusal]:
        """Examine some records."""
        return [self._examine(record) for record in records]

    def _examine(self, record: Record) -> Packable | Refusal:
        try:
            if isinstance(record.value, ValueError):
                raise RefusedError(f"not JSON: {record.value}")
            if not isinstance(record.value, dict):
                raise RefusedError("not a record")
            return self._packable(cast(dict[str, Any], record.value), record.source)
        except RefusedError as refusal:
            return Refusal(_id_of(record.value), record.source, str(refusal))

    def _packable(self, fields: dict[str, Any], source: str) -> Packable:
        name = image_name(fields)
        image_file = self.images.read(name) if name is not None else None
        turns, left_out = clean_turns(fields, image_file is not None, self.preset.whole_rounds)
        identity = source if _id_of(fields) is None else str(fields["id"])
        sample = {"id": identity, "conversations": [{"from": who, "value": text} for who, text in turns]}
        sample |= {field: fields[field] for field in ("kinds", "source") if field in fields}
        if "kinds" in fields and not _are_kinds(fields["kinds"], len(turns) // 2):
            raise RefusedError(f"kinds that are not one for each round: {len(turns) // 2} rounds")
        record = _as_json(sample)
        rounds = len(turns) // 2
        if image_file is None:  # how its file is called decides nothing
            without_id = record if _id_of(fields) is not None else _as_json(sample | {"id": ""})
            return Packable(record, None, "", hash_of(without_id), -1, 0, rounds, tuple(left_out))
        image, extension = self._image(image_file, name := cast(str, name))
        origin = hash_of(image_file.data)
        read = len(image_file.data)
        return Packable(
            record, image, extension, origin, image_file.root, read, rounds, tuple(left_out), under_name(name, origin)
        )

    def _image(self, image_file: ImageFile, name: str) -> tuple[bytes, str]:
        try:
            return self.resizing(image_file.data, name)
        except UserError as error:
            raise RefusedError(f"image broken: {error}") from error


def under_name(name: str, origin: str) -> str:
    """SHA-256 of an image's name and content, the content told by its own: two that change names are others."""
    return hash_of(f"{origin} {name}".encode("utf-8", "surrogatepass"))


def _as_json(sample: dict[str, Any]) -> bytes:
    try:
        return json.dumps(sample, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise RefusedError(f"text that is not Unicode: {error.reason}") from error
    except ValueError as error:
        raise RefusedError("a number that is not finite: JSON has none") from error


def _are_kinds(kinds: Any, rounds: int) -> bool:
    if not isinstance(kinds, list):
        return False
    return len(cast(list[Any], kinds)) == rounds and all(isinstance(kind, str) for kind in cast(list[Any], kinds))


def _id_of(value: Any) -> Any:
    return cast(dict[str, Any], value).get("id") if isinstance(value, dict) else None
