"""On which line of a YAML file an entry is, so that a mistake is told with file and line."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from lit_avg.strict_yaml import StrictLoader


def located(place: str, files: Sequence[Path]) -> str:
    """`file:line` of the entry with a dotted path, in the first of the files that has it or most of the way to it.

    Args:
        place: dotted path, such as `rows.router.run`.
        files: YAML files.
    """
    parts = place.split(".")
    entries = [(path, line_numbers(path)) for path in files if path.is_file()]
    for length in range(len(parts), 0, -1):
        for path, lines in entries:
            if (line := lines.get(".".join(parts[:length]))) is not None:
                return f"{path}:{line}"
    return f"{files[0]}:1"


def located_name(names: Sequence[str], files: Sequence[Path]) -> str | None:
    """`file:line` of the entry that the last of some names leads to, however deep it is; None if none does.

    Args:
        names: names of entries, or ends of dotted paths.
        files: YAML files, the likeliest first.
    """
    entries = [(path, line_numbers(path)) for path in files if path.is_file()]
    for name in reversed(names):
        for path, lines in entries:
            for place, line in lines.items():
                if f".{place}".endswith(f".{name}"):
                    return f"{path}:{line}"
    return None


def line_numbers(path: Path) -> dict[str, int]:
    """The line of every entry of a YAML file, by dotted path; none where the file is no YAML."""
    try:
        tree = yaml.compose(path.read_text(encoding="utf-8"), StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError):  # whoever reads the file for its content tells that
        return {}
    return dict(_entries(tree, ""))


def _entries(node: yaml.Node | None, place: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{place}.{key.value}" if place else str(key.value)
            yield name, key.start_mark.line + 1
            yield from _entries(value, name)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from _entries(item, f"{place}.{number}")
