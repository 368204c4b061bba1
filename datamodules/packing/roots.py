"""Where images are read from: folders, zips and tars, each for the names that begin with its prefix."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from datamodules.packing.archives import Archive, build_index
from datamodules.packing.names import (
    MAX_FILE_BYTES,
    RefusedError,
    candidates,
    inside,
    spellings,
    with_other_extensions,
)
from lit_avg.utils.errors import UserError
from lit_avg.utils.hashing import file_sha256


@dataclass(frozen=True)
class ImageRoot:
    """One place that images are read from."""

    path: Path  # a folder, zip or tar
    prefix: str = ""  # of the names it is for

    @property
    def kind(self) -> Literal["folder", "archive"]:
        """How it is read."""
        return "folder" if self.path.is_dir() else "archive"

    def identity(self) -> dict[str, object]:
        """What must be equal for two roots to be taken for the same: an archive's hash, or a folder's name."""
        described: dict[str, object] = {"prefix": self.prefix, "name": self.path.absolute().name, "kind": self.kind}
        if self.kind == "folder":
            return described
        return described | {"bytes": self.path.stat().st_size, "sha256": file_sha256(self.path)}


def parse_root(argument: str) -> ImageRoot:
    """`ROOT` or `PREFIX=ROOT`.

    Raises:
        UserError: there is no such folder or file, or the prefix points outside.
    """
    path, prefix = Path(argument), ""
    if not path.exists() and "=" in argument:
        prefix, _, rest = argument.partition("=")
        path = Path(rest)
    if not path.exists():
        raise UserError(f"there is no image folder, zip or tar {path}; say with --images where the images are")
    if (short := inside(prefix)) is None:
        raise UserError(f"--images {argument}: the prefix is the beginning of image names, and none leaves its root")
    return ImageRoot(path, "" if short == "." else short)


class ImageFile(NamedTuple):
    """An image's bytes and the number of the root they are from."""

    data: bytes
    root: int


@dataclass
class Images:
    """All roots together.

    Args:
        roots: the longest prefix that fits is asked first; of equal ones, the first.
        indexes: the folder of the archives' indexes, which `build_indexes` makes.
        folders: folders that the archives of this data set are known to put around their images.
        any_extension: an image may lie there with another extension than the record says.
    """

    roots: Sequence[ImageRoot]
    indexes: Path
    folders: Sequence[str] = ()
    any_extension: bool = False
    opened: "dict[int, Folder | Archive]" = field(default_factory=dict)  # in this process

    def build_indexes(self) -> None:
        """List the archives.

        Raises:
            UserError: one cannot be read.
        """
        self.indexes.mkdir(parents=True, exist_ok=True)
        for number, root in enumerate(self.roots):
            if root.kind == "archive":
                build_index(root.path, self._index(number))

    def read(self, name: str) -> ImageFile:
        """The image of that name.

        Raises:
            RefusedError: it is not there or cannot be read, or its name points outside.
        """
        short = inside(name) if "\0" not in name else None
        if short is None:
            raise RefusedError(f"image outside the image folder: {name}")
        for candidate, number in self._places(short):
            if (data := self._root(number).read(candidate)) is not None:
                return ImageFile(data, number)
        raise RefusedError(f"image missing: {name}")

    def _places(self, name: str) -> Iterator[tuple[str, int]]:
        for number in sorted(range(len(self.roots)), key=lambda number: -len(self.roots[number].prefix)):
            prefix = self.roots[number].prefix
            if not prefix or name == prefix or name.startswith(f"{prefix}/"):
                places = list(candidates(name, prefix, self.folders))
                yield from ((place, number) for place in places)
                if self.any_extension:
                    yield from ((other, number) for place in places for other in with_other_extensions(place))

    def _root(self, number: int) -> "Folder | Archive":
        if number not in self.opened:
            path = self.roots[number].path
            archive = self.roots[number].kind == "archive"
            self.opened[number] = Archive(path, self._index(number)) if archive else Folder(path)
        return self.opened[number]

    def _index(self, number: int) -> Path:
        return self.indexes / f"root-{number}.sqlite"


@dataclass(frozen=True)
class Folder:
    """A folder of images; links in it are followed, for whoever made the folder made them."""

    path: Path

    def read(self, name: str) -> bytes | None:
        """The file of that name, None if there is none.

        Raises:
            RefusedError: it is too large, or cannot be read.
        """
        for spelling in spellings(name):
            path = self.path / spelling
            try:
                if not path.is_file():
                    continue
                if (size := path.stat().st_size) > MAX_FILE_BYTES:
                    raise RefusedError(f"image too large: {name} has {size} bytes")
                return path.read_bytes()
            except OSError as error:
                raise RefusedError(f"image unreadable: {name}: {error.strerror}") from error
            except UnicodeEncodeError:  # a name that no file system can hold
                return None
        return None
