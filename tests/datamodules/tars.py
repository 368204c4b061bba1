"""Tar files that others made, for the tests."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.drawn import conversation, image


def write_tar(path: Path, members: Mapping[str, bytes | str | None], **how: Any) -> None:
    """Files by name; a folder for None, and a symbolic link for a text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **how) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
            elif content is None:
                member.type = tarfile.DIRTYPE
            else:
                member.type, member.linkname = tarfile.SYMTYPE, content
            tar.addfile(member, io.BytesIO(content) if isinstance(content, bytes) else None)


def record(number: int, answer: str = "red", has_image: bool = True) -> bytes:
    """What a sample's file says."""
    said: dict[str, Any] = conversation(number, "red" if has_image else None)
    said["conversations"][1]["value"] = answer
    return json.dumps(said).encode()


def foreign_tar(path: Path, answer: str, samples: int = 4) -> None:
    """Samples in a folder with a dot in its name, all with the same answer."""
    members: dict[str, bytes | str | None] = {}
    for number in range(samples):
        members |= {
            f"./some.folder/{number}.json": record(number, answer),
            f"./some.folder/{number}.png": image(30, 20, "red", number),
        }
    write_tar(path, members)
