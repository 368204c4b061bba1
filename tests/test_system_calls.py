"""Files are put in place, locked and hashed in `lit_avg/utils` alone, so that modes, locks and names are the same."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UTILS = ROOT / "lit_avg" / "utils"
SOURCES = [
    path
    for package in ("lit_avg", "datamodules", "callbacks", "benchmarks")
    for path in sorted((ROOT / package).rglob("*.py"))
    if not path.is_relative_to(UTILS)
]

INSTEAD = {
    "fcntl": "locks.file_lock or locks.locked",
    "filelock": "locks.file_lock or locks.locked",
    "hashlib": "hashing.hash_of and its neighbours",
    "os.chmod": "atomic_io.obey_umask",
    "os.chown": "atomic_io.obey_umask",
    "os.link": "atomic_io.link",
    "os.rename": "atomic_io.move",
    "os.replace": "atomic_io.move",
    "os.symlink": "atomic_io.link",
    "os.umask": "atomic_io.obey_umask",
    "shutil.move": "atomic_io.move",
    "tempfile.NamedTemporaryFile": "atomic_io.whole_file",
    "tempfile.mkdtemp": "atomic_io.whole_folder",
    "tempfile.mkstemp": "atomic_io.whole_file",
    ".chmod": "atomic_io.obey_umask",
    ".rename": "atomic_io.move",
    ".replace": "atomic_io.move",
    ".symlink_to": "atomic_io.link",
}
"""What is done by one helper, and by which."""

BY_HAND = {
    ("datamodules/shards/writer.py", "hashlib"): "hashes a shard as it passes, and takes that up where a kill left it",
    ("datamodules/shards/download.py", "hashlib"): "hashes what arrives, and begins anew where the server does",
}


def told(node: ast.AST) -> Iterator[str]:
    """What of the system a piece of code names."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names))
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        yield f"{node.value.id}.{node.attr}"
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        text = node.func.attr == "replace" and (len(node.args) != 1 or node.keywords)  # `str.replace` takes two
        yield "" if text else f".{node.func.attr}"


def done_by_hand(source: str) -> set[str]:
    return {name for node in ast.walk(ast.parse(source)) for name in told(node)} & INSTEAD.keys()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_one_helper_does_nobody_does_by_hand(path: Path) -> None:
    place = str(path.relative_to(ROOT))
    allowed = {name for where, name in BY_HAND if where == place}
    found = done_by_hand(path.read_text(encoding="utf-8"))
    assert {name: f"use {INSTEAD[name]}" for name in found - allowed} == {}
    assert allowed <= found, "it is done by the helper by now: take it out of the list"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f():\n    from os import replace", "os.replace"),
        ("import tempfile\ntempfile.mkstemp()", "tempfile.mkstemp"),
        ("from hashlib import sha256", "hashlib"),
        ("(folder / 'a').replace(folder / 'b')", ".replace"),
        ("folder.joinpath('a').rename('b')", ".rename"),
        ("path.chmod(0o600)", ".chmod"),
        ("dataclasses.replace(one, name=1) or text.replace('a', 'b') or replace(one)", None),
    ],
)
def test_it_is_seen_in_whatever_way_it_is_done(source: str, found: str | None) -> None:
    assert done_by_hand(source) == ({found} if found else set())
