"""A run's saved config: what was derived stays derived, and what lies beside the run moves with it.

`config.yaml` says `${trainer.max_steps}` where the files that it came from did, so that a shorter run of it is
validated at its end, and `${run_root}/stage3` for what lies in the folder of the runs. Where that folder lies now, the
file itself tells: a run that was moved or copied is the run of the folder that its config lies in.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lit_avg.result_names import RESULT
from lit_avg.runs.run_folder import CHECKPOINTS
from lit_avg.utils.errors import UserError
from lit_avg.utils.yaml_reader import read_yaml

_REFERENCE = re.compile(r"\$\{(\.*)([A-Za-z_][\w.\[\]-]*)\}")
"""A reference to another entry; `${oc.env:…}` and its like are none, and are saved as what they came to."""

_RUN_ROOT = "${run_root}/"

_NAME = re.compile(r"config(\.\w+)*\.yaml")
"""What `SaveConfig` calls its files."""


def as_saved(config: dict[str, Any], unresolved: Mapping[str, Any]) -> dict[str, Any]:
    """The config as it is saved.

    Args:
        config: what the run's files and options came to.
        unresolved: the same with its references; empty if there is none.
    """
    root = f"{config.get('run_root') or ''}".rstrip("/")
    derived = _derived(config, unresolved, ())
    saved = cast(dict[str, Any], _placed(derived, f"{root}/") if root not in ("", ".") else derived)
    saved |= {"run_root": config["run_root"]} if "run_root" in config else {}
    return saved if _resolved(saved) == config else config


def read_saved(path: Path) -> dict[str, Any]:
    """A saved config with every reference replaced by its value."""
    content = read_yaml(path)
    return _resolved(content) or content


def where_it_lies(config: Path) -> list[str]:
    """The options by which a run's own config means the folder that it lies in, wherever that was moved to.

    Args:
        config: any config file.

    Returns:
        No options for a file that is no run's own, or lies where it says.
    """
    folder = config.absolute().parent
    if not _NAME.fullmatch(config.name) or not any((folder / name).exists() for name in (CHECKPOINTS, RESULT)):
        return []
    try:
        content, text = read_saved(config), read_yaml(config)
        recorded, root = str(content["trainer"]["default_root_dir"]), str(content["run_root"]).rstrip("/")
    except (UserError, KeyError, TypeError):
        return []  # no config that a run has saved; whoever reads it will say so
    if Path(recorded).resolve() == folder.resolve():
        return []
    below = Path(recorded.removeprefix(f"{root}/")).parts if recorded.startswith(f"{root}/") else ()
    moved_along = below and folder.parts[-len(below) :] == below
    options = ["--run_root", str(folder.parents[len(below) - 1])] if moved_along else []
    if not (moved_along and text["trainer"]["default_root_dir"].startswith(_RUN_ROOT)):
        options += ["--trainer.default_root_dir", str(folder)]
    return options


def _derived(value: object, unresolved: object, place: tuple[str, ...]) -> object:
    """A value, with a reference wherever there was one to other entries alone."""
    if isinstance(value, dict) and isinstance(unresolved, Mapping):
        before = cast(Mapping[str, object], unresolved)
        entries = cast(dict[str, object], value)
        return {name: _derived(entry, before.get(name), (*place, name)) for name, entry in entries.items()}
    if isinstance(value, list) and isinstance(unresolved, list):
        pairs = enumerate(zip(cast(list[object], value), cast(list[object], unresolved), strict=False))
        items = [_derived(item, before, (*place, str(number))) for number, (item, before) in pairs]
        return [*items, *cast(list[object], value)[len(items) :]]
    if isinstance(unresolved, str) and "${" in unresolved and "${" not in _REFERENCE.sub("", unresolved):
        return _REFERENCE.sub(lambda found: _absolute(found[1], found[2], place), unresolved)
    return value


def _absolute(dots: str, name: str, place: Sequence[str]) -> str:
    """A reference as seen from the top: `${..a}` in b.c.d is `${b.a}`."""
    above = place[: len(place) - len(dots)] if dots else ()
    return f"${{{'.'.join([*above, name])}}}"


def _placed(value: object, root: str) -> object:
    """Texts that begin with the folder of the runs, told from it."""
    if isinstance(value, dict):
        return {name: _placed(entry, root) for name, entry in cast(dict[str, object], value).items()}
    if isinstance(value, list):
        return [_placed(item, root) for item in cast(list[object], value)]
    return f"{_RUN_ROOT}{value[len(root) :]}" if isinstance(value, str) and value.startswith(root) else value


def _resolved(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """What references come to; None where one leads nowhere."""
    try:
        return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(dict(content)), resolve=True))
    except OmegaConfBaseException:
        return None
