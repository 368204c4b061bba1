"""From the name of a launcher to the launcher, and which launchers a study was swept with."""

import inspect
import json
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from lit_avg.studies.launchers.launcher import Launcher
from lit_avg.studies.spec.launcher_options import LauncherConfig
from lit_avg.studies.spec.study import Study
from lit_avg.utils.atomic_io import write_whole
from lit_avg.utils.errors import UserError
from lit_avg.utils.json_files import read_entries
from lit_avg.utils.yaml_reader import located

LAUNCHERS = {
    "local": "lit_avg.studies.launchers.local.LocalLauncher",
    "slurm": "lit_avg.studies.launchers.slurm.SlurmLauncher",
}
"""Those that ship, by their short names; the first is used where nobody names one."""

NAMES = f"{', '.join(LAUNCHERS)} or a class such as my_module.MyLauncher"

_NOTES = "launchers"
"""Folder, inside a study's, of the launchers it was swept with, each with its arguments."""


def chosen_launcher(study: Study, named: str | None = None) -> LauncherConfig:
    """The launcher that a command names, or else the study; its arguments are the study's where both name the same.

    Raises:
        UserError: it is no launcher.
    """
    of_study = study.launcher or LauncherConfig(next(iter(LAUNCHERS)))
    name = _short(named or of_study.class_path)
    _class_of(name, _place(study, name))
    return LauncherConfig(name, of_study.init_args if name == _short(of_study.class_path) else {})


def build_launcher(study: Study, config: LauncherConfig, options: Mapping[str, Any] | None = None) -> Launcher:
    """The launcher itself.

    Args:
        study: for which it is.
        config: of `chosen_launcher` or `noted_launchers`.
        options: arguments from the command line, which go before; those that it does not have are left out.

    Raises:
        UserError: it is no launcher, or has other arguments.
    """
    place = _place(study, config.class_path)
    launcher = _class_of(config.class_path, place)
    taken = inspect.signature(launcher).parameters
    given = {name: value for name, value in (options or {}).items() if name in taken and value is not None}
    arguments = _parsed(launcher, config, place) | given
    try:
        inspect.signature(launcher).bind(study, **arguments)
    except TypeError as error:
        raise UserError(f"{place} {config.class_path}: its constructor, given the study: {error}") from error
    return launcher(study, **arguments)


def note_launcher(study: Study, config: LauncherConfig) -> None:
    """Let `status` and `cancel` know of a launcher."""
    path = study.out / _NOTES / f"{config.class_path}.json"
    write_whole(path, json.dumps(dict(config.init_args)) + "\n")


def noted_launchers(study: Study) -> Iterator[LauncherConfig]:
    """Those that the study was swept with."""
    for path in sorted((study.out / _NOTES).glob("*.json")):
        yield LauncherConfig(path.stem, read_entries(path, "remove it, or sweep again with that launcher"))


def _short(class_path: str) -> str:
    return next((name for name, path in LAUNCHERS.items() if path == class_path), class_path)


def _place(study: Study, name: str) -> str:
    """Where a launcher is named: in the study, or else on the command line."""
    in_study = study.launcher is not None and _short(study.launcher.class_path) == name
    return f"{located('launcher', study.files)}: launcher" if in_study else "--launcher"


def _class_of(name: str, place: str) -> type[Launcher]:
    module, _, attribute = LAUNCHERS.get(name, name).rpartition(".")
    if not module:
        raise UserError(f"{place} must be {NAMES}, but is {name}")
    try:
        launcher = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{place} {name}: {error}; its module must be on Python's path (PYTHONPATH)") from error
    if not (isinstance(launcher, type) and issubclass(launcher, Launcher)):
        raise UserError(f"{place} {name} does not extend {Launcher.__module__}.{Launcher.__name__}")
    if missing := sorted(Launcher.__abstractmethods__ & getattr(launcher, "__abstractmethods__", frozenset[str]())):
        raise UserError(f"{place} {name} lacks {', '.join(missing)}")
    return launcher


def _parsed(launcher: type[Launcher], config: LauncherConfig, place: str) -> dict[str, Any]:
    """Arguments from YAML as what the class asks for; null means the default."""
    given = {name: value for name, value in config.init_args.items() if value is not None}
    if not given:
        return {}
    from jsonargparse import ArgumentError, ArgumentParser  # which takes a while, and most launchers have no arguments

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(launcher, skip={1}, fail_untyped=False)  # the first is the study
    try:
        return vars(parser.instantiate(parser.parse_object(given)))
    except ArgumentError as error:
        raise UserError(f"{place} {config.class_path}: {' '.join(str(error).split())}") from error
