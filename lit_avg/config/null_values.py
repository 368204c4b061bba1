"""`null` in a config, where a class wants something: jsonargparse lets it pass for a nested class's arguments.

Such an argument is neither what the class is made for nor its default: it would fail somewhere within, or never.
"""

import inspect
from collections.abc import Iterator
from types import NoneType
from typing import Any, cast, get_args, get_type_hints

from jsonargparse import Namespace

from lit_avg.utils.errors import UserError


def check_no_null(section: object, where: str) -> None:
    """Refuse `null` for arguments that have a default and take no null.

    Args:
        section: of a config, as it was parsed; a class in it is a `class_path` and its `init_args`.
        where: its key.

    Raises:
        UserError: names the argument.
    """
    for key, value in _entries(section):
        place = f"{where}.{key}".removesuffix(".init_args")
        if key == "init_args" and isinstance(section, Namespace):
            for name, default in _defaults_without_null(str(section["class_path"])).items():
                if name in value and value[name] is None:
                    raise UserError(
                        f"{place}.{name} is null, which it cannot be; leave it out for its default ({default})"
                    )
        check_no_null(value, place)


def _entries(section: object) -> Iterator[tuple[object, Any]]:
    if isinstance(section, Namespace):
        yield from vars(section).items()
    elif isinstance(section, list):
        yield from enumerate(cast(list[Any], section))


def _defaults_without_null(class_path: str) -> dict[str, object]:
    """Arguments of a class, and of those that it hands further ones to, that must not be null, with their defaults."""
    module, _, name = class_path.rpartition(".")
    found = dict[str, object]()
    seen = set[str]()
    for base in getattr(__import__(module, fromlist=[name]), name).__mro__:
        if "__init__" not in vars(base):
            continue
        try:
            parameters, hints = inspect.signature(base.__init__).parameters, get_type_hints(base.__init__)
        except (NameError, ValueError, TypeError):  # another's class, whose annotations cannot be told
            continue
        for argument, parameter in parameters.items():
            hint = hints.get(argument, Any)
            takes_null = (
                hint is Any or NoneType in (hint, *get_args(hint)) or parameter.default in (None, parameter.empty)
            )
            if argument not in seen and not takes_null:
                found[argument] = parameter.default
            seen.add(argument)
    return found
