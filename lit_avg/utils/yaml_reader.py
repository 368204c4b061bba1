"""Reading YAML by one rule: in studies, in the configs of stages, in data checks and on the command line.

Keys are texts, whatever they look like, and none is there twice. An unquoted value is what YAML 1.2 takes it for:
`true` and `false`, `null`, numbers such as `10`, `0x10`, `0o17`, `.5`, `1e-5` and `.inf`; all else is text, dates and
`4:00:00` too. What readers of YAML 1.1, as most of Python's are, would take for something else (`yes` for true, `010`
for eight, `1_000` for a thousand) is refused with its line, for nobody can tell which was meant.
So is a mistake that somebody else finds in an entry: `located` knows on which line of a file it is.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from lit_avg.utils.errors import UserError

if TYPE_CHECKING or not yaml.__with_libyaml__:
    from yaml import SafeLoader
else:
    from yaml import CSafeLoader as SafeLoader  # ten times as fast

_TAG = "tag:yaml.org,2002:"
_MERGE, _UNCLEAR = f"{_TAG}merge", "!unclear"

_PLAIN = {
    _MERGE: r"<<",
    f"{_TAG}null": r"~|null|Null|NULL|",
    f"{_TAG}bool": r"true|True|TRUE|false|False|FALSE",
    f"{_TAG}int": r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+",
    f"{_TAG}float": r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    # signed hexadecimals, leading zeros, binary numbers and underscores between digits
    _UNCLEAR: r"(?:yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF)"
    r"|[-+]0[ox][0-9a-fA-F]+|[-+]?0[0-9]+|[-+]?0b[01_]+"
    r"|[-+]?(?=[0-9a-fA-Fx.eE+-]*[0-9]_)(?:0x[0-9a-fA-F_]+|[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9_]+)?|\.[0-9_]+)",
}
"""What an unquoted value is, by its form; text, if it is none of these."""

_RESOLVERS = [(tag, re.compile(f"(?:{form})$")) for tag, form in _PLAIN.items()]


class StrictLoader(SafeLoader):
    """PyYAML's loader with this module's rule."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._seen = dict[int, yaml.MappingNode]()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put in the entries that are merged, and see that each key is a text and is there once."""
        if id(node) not in self._seen:  # one that others merge comes again, with what it has merged itself
            self._seen[id(node)] = node
            _check_keys(node)
        super().flatten_mapping(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Take the keys as they are written: a row may be called `no`, or `1.0`."""
        self.flatten_mapping(node)
        return {key.value: self.construct_object(value, deep=deep) for key, value in node.value}


class StrictDumper(yaml.SafeDumper):
    """Quotes texts that `StrictLoader`, or a reader of YAML 1.1, would take for something else."""


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file with a mapping in it.

    Raises:
        UserError: it is no YAML, has a key twice or a value that is unclear, or is something else than a mapping.
    """
    try:
        content: object = yaml.load(path.read_text(encoding="utf-8"), StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        said = ", ".join(part for part in (error.problem, error.context) if part)
        raise UserError(f"{path}:{line}: no valid YAML: {said}") from error
    except (yaml.YAMLError, ValueError) as error:  # not even text in UTF-8
        raise UserError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        holds = "nothing" if content is None else type(content).__name__
        raise UserError(f"{path} must hold `key: value` lines, but holds {holds}")
    return cast(dict[str, Any], content)


def dump_yaml(content: object) -> str:
    """YAML that `StrictLoader` reads back as it is."""
    return yaml.dump(content, Dumper=StrictDumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


def _check_keys(node: yaml.Node) -> None:
    if not isinstance(node, yaml.MappingNode):
        raise _error(node, f"{node.value!r} is no `key: value` lines")
    lines = dict[str, int]()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _error(key, "a key must be a text; put what is in braces or brackets in quotes")
        if key.value in lines:
            raise _error(key, f"{key.value!r} is there already, in line {lines[key.value]}")
        lines[key.value] = key.start_mark.line + 1


def _error(node: yaml.Node, problem: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark)


def _unclear(loader: StrictLoader, node: yaml.ScalarNode) -> None:
    text = str(node.value)
    if text.isalpha():
        meant = "true" if text.lower() in ("yes", "on") else "false"
        raise _error(
            node,
            f"{text} is true or false to some readers of YAML, and text to others; write {meant}, or "
            f"'{text}' in quotes if it is text",
        )
    raise _error(
        node,
        f"{text} is read as different numbers, or as text, by different readers of YAML; write the "
        f"number plainly, without leading zeros or underscores, or '{text}' in quotes if it is text",
    )


def _bool(loader: StrictLoader, node: yaml.ScalarNode) -> bool:
    return _parsed(node, {"true": True, "false": False}.__getitem__, node.value.lower())


def _int(loader: StrictLoader, node: yaml.ScalarNode) -> int:
    return _parsed(node, lambda text: int(text, 0), node.value)


def _float(loader: StrictLoader, node: yaml.ScalarNode) -> float:
    text = node.value.lower()
    number = _parsed(node, float, text.replace(".inf", "inf").replace(".nan", "nan"))
    if abs(number) == float("inf") and "inf" not in text:
        raise _error(node, f"{node.value} is beyond the largest number; write .inf if it is to be infinite")
    return number


def _parsed(node: yaml.ScalarNode, parse: Callable[[str], Any], text: str) -> Any:
    """What an explicit tag promises, as in `!!int x`, may not hold."""
    try:
        return parse(text)
    except (ValueError, KeyError) as error:
        raise _error(node, f"{node.value[:40]} is no {node.tag.removeprefix(_TAG)}") from error


StrictLoader.yaml_implicit_resolvers = {None: _RESOLVERS}  # None: whatever a value begins with
StrictDumper.yaml_implicit_resolvers = {**yaml.SafeDumper.yaml_implicit_resolvers, None: _RESOLVERS}
StrictDumper.add_multi_representer(Enum, lambda dumper, member: dumper.represent_data(member.value))
StrictLoader.yaml_constructors = {
    **{tag: SafeLoader.yaml_constructors[tag] for tag in (None, f"{_TAG}null", f"{_TAG}str")},
    # at once, so that an entry within itself is found out
    f"{_TAG}map": lambda loader, node: loader.construct_mapping(node, deep=True),
    f"{_TAG}seq": lambda loader, node: loader.construct_sequence(node, deep=True),
    f"{_TAG}bool": _bool,
    f"{_TAG}int": _int,
    f"{_TAG}float": _float,
    _UNCLEAR: _unclear,
}
"""Nothing that JSON cannot say: no dates, sets or bytes."""


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
