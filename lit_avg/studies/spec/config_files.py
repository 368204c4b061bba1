"""What files say: a study over the one it extends, and a run's configs with the files that they name."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from lit_avg.studies.spec.validation import Mistake
from lit_avg.utils.errors import UserError
from lit_avg.utils.yaml_reader import located, read_yaml


def study_content(path: Path, errors: list[Mistake]) -> tuple[dict[str, Any], tuple[Path, ...]]:
    """A study file's content over that of the study it extends, and the files that were read.

    Raises:
        UserError: a file is no YAML, or the extended study is not there, so that nothing else can be said.
    """
    content = _with_own_paths(path)
    if (extends := content.pop("extends", None)) is None:
        return content, (path,)
    base_path = path.parent / str(extends)
    if not base_path.is_file():
        raise UserError(f"{located('extends', [path])}: extends: there is no study {base_path}")
    if base_path.resolve() == path.resolve():
        raise UserError(f"{located('extends', [path])}: extends: this is the study itself; name the one it adds to")
    base = _with_own_paths(base_path)
    if "extends" in base:
        another = f"{base_path} has an `extends` of its own, {base['extends']}"
        errors.append(Mistake("extends", f"{another}, and only one study may stand behind another"))
    for section in ("runs", "rows", "axes"):
        if isinstance(base.get(section), dict) and isinstance(content.get(section), dict):
            content[section] = base[section] | content[section]
    return base | content, (path, base_path)


def config_content(config: Path) -> list[dict[str, Any]]:
    """What a config file says, and what the files that it names say; comments do not count.

    Raises:
        UserError: a file is no YAML, or leads back to itself.
    """
    return [content for _, content in _with_named(config, ())]


def named_files(config: Path) -> list[Path]:
    """A config file and those that it names, directly or not."""
    return [file for file, _ in _with_named(config, ())]


def _with_named(config: Path, above: tuple[Path, ...]) -> Iterator[tuple[Path, dict[str, Any]]]:
    if config.resolve() in above:
        raise UserError(f"{config} names itself, or a file that leads back to it")
    content = read_yaml(config)
    yield config, content
    for text in _texts(content):
        if text.endswith((".yaml", ".yml")) and (named := config.parent / text).is_file():
            yield from _with_named(named, (*above, config.resolve()))


def _with_own_paths(path: Path) -> dict[str, Any]:
    """The file's content, its configs found from the file itself."""
    content = read_yaml(path)
    for section, key in (("runs", "configs"), ("rows", "overlays")):
        entries = content.get(section)
        for entry in cast(dict[str, Any], entries).values() if isinstance(entries, dict) else ():
            if isinstance(entry, dict) and isinstance(names := cast(dict[str, Any], entry).get(key), list):
                entry[key] = [os.path.normpath(path.parent / str(name)) for name in cast(list[object], names)]
    return content


def _texts(content: object) -> Iterator[str]:
    """Every string value in nested YAML."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        for value in cast(dict[object, object], content).values():
            yield from _texts(value)
    elif isinstance(content, list):
        for value in cast(list[object], content):
            yield from _texts(value)
