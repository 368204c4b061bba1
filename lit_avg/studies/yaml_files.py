"""Reading YAML as a study means it: a mapping, no key twice, and everything JSON can say too."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from lit_avg.errors import UserError

if TYPE_CHECKING or not yaml.__with_libyaml__:
    from yaml import SafeLoader
else:
    from yaml import CSafeLoader as SafeLoader  # ten times as fast

_DATES = "tag:yaml.org,2002:timestamp"


class _Loader(SafeLoader):
    """Keys are texts and dates are texts, as the training program takes them.

    A key that is there twice is refused: YAML would keep the last, and a row or a value would be lost unseen.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._seen = dict[int, yaml.MappingNode]()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if id(node) not in self._seen:  # one that others merge comes again, with what it has merged itself
            self._seen[id(node)] = node
            _refuse_twins(node)
        super().flatten_mapping(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        return {str(key): value for key, value in super().construct_mapping(node, deep).items()}


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != _DATES]
    for letter, resolvers in SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file with a mapping in it.

    Raises:
        UserError: it is no YAML, has a key twice, or is something else than a mapping.
    """
    try:
        content: object = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        said = ", ".join(part for part in (error.problem, error.context) if part)
        raise UserError(f"{path}:{line}: no valid YAML: {said}") from error
    except (yaml.YAMLError, ValueError) as error:  # not even text in UTF-8
        raise UserError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold `key: value` lines, but holds {type(content).__name__}")
    return cast(dict[str, Any], content)


def _refuse_twins(node: yaml.MappingNode) -> None:
    lines = dict[str, int]()
    for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
        if key.value in lines:
            problem = f"{key.value!r} is there already, in line {lines[key.value]}"
            raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
        lines[key.value] = key.start_mark.line + 1
