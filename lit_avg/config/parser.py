"""LightningCLI's parser, with messages of a line or two instead of a page of usage and every type a value may have."""

from collections.abc import Mapping
from typing import Any, NoReturn, get_args

import yaml
from jsonargparse import (
    Namespace,
    _loaders_dumpers,  # pyright: ignore[reportPrivateUsage]  its loader has no public name
    set_dumper,
)
from jsonargparse._typehints import ActionTypeHint
from lightning.pytorch.cli import LightningArgumentParser

from lit_avg.config.parser_messages import chain_of, in_short
from lit_avg.utils.errors import UserError
from lit_avg.utils.yaml_reader import StrictLoader, dump_yaml

# one rule for files, for values within them, and for values on the command line; and what is written is read back so
_loaders_dumpers.yaml_default_loader = StrictLoader
set_dumper("yaml", dump_yaml)


class TrainingParser(LightningArgumentParser):
    """Raises what argparse would print before it exits, and takes a text for what it is where a text is asked for.

    It keeps the config as it was before `${…}` was replaced.
    """

    unresolved: Mapping[str, Any] = {}

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Add an argument; where its type allows a text, none is ever opened as a path or URL of a nested config.

        jsonargparse opens what it takes for one wherever a list of dataclasses is allowed as well: a location of shards
        would be read whole, tar file or web page, at each look at the config.
        """
        action = super().add_argument(*args, **kwargs)
        if isinstance(action, ActionTypeHint) and str in get_args(action._typehint):  # pyright: ignore[reportPrivateUsage]
            action._enable_path = False  # pyright: ignore[reportPrivateUsage]  nothing public says so
        return action

    def dump(self, cfg: Namespace, *arguments: Any, **options: Any) -> str:
        """As in jsonargparse, which calls this for the text in which it replaces references."""
        text: str = super().dump(cfg, *arguments, **options)
        if "${" in text:
            self.unresolved = yaml.load(text, StrictLoader)
        return text

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message, cut to what it says of the mistake.

        Raises:
            UserError: always.
        """
        for error in chain_of(ex):
            if "Config file loop detected" in str(error) and error.__context__ is not None:
                # jsonargparse reads a nested file that it refused a second time, and complains about that instead
                message = message.replace(str(error), str(error.__context__))
        raise UserError(in_short(message)) from ex
