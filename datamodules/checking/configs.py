"""Reading from configs what a data set is measured with."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from datamodules.base import ShardsDataModule
from datamodules.checking.measure import MeasureSettings
from datamodules.encoding.conversation import ConversationRenderer
from lit_avg.utils.errors import UserError
from lit_avg.utils.yaml_reader import read_yaml

_UNLIMITED = 2**31  # a maximum length that cuts nothing


def measure_settings_of(configs: Sequence[Path]) -> MeasureSettings:
    """What the data and the model in some config files would measure with.

    Args:
        configs: of a stage, of data, or of a model.

    Raises:
        UserError: one is not there or cannot be read, or its data are no shards.
    """
    settings = MeasureSettings()
    for path in configs:
        for node in _nodes(_read(path)):
            settings = _with_data(settings, node, path)
            if isinstance(node.get("granularities"), dict):
                levels = node["granularities"]
                tokens = tuple(levels.get("tokens", settings.granularities))
                settings = replace(settings, granularities=tokens, step=levels.get("step", settings.step))
    return settings


def _read(path: Path) -> Any:
    """A config, with the files that it names in place of their names."""
    if not path.is_file():
        raise UserError(f"there is no config {path}")
    try:
        content = OmegaConf.to_container(OmegaConf.create(read_yaml(path)), resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error
    return _with_files(content, path.parent)


def _with_files(node: Any, folder: Path) -> Any:
    if isinstance(node, dict):
        return {key: _with_files(value, folder) for key, value in cast(dict[str, Any], node).items()}
    if isinstance(node, str) and node.endswith(".yaml") and (folder / node).is_file():
        return _read(folder / node)
    return node


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        fields = cast(dict[str, Any], node)
        yield fields
        for value in fields.values():
            yield from _nodes(value)


def _with_data(settings: MeasureSettings, node: dict[str, Any], path: Path) -> MeasureSettings:
    """As the data module of this node would measure, if it is one."""
    module, _, name = str(node.get("class_path", "")).rpartition(".")
    if not module.startswith("datamodules"):
        return settings
    try:
        data = getattr(import_module(module), name)(**node.get("init_args", {}))
    except (ImportError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: {module}.{name} cannot be made: {error}") from error
    if not isinstance(data, ShardsDataModule):
        raise UserError(f"{path}: {module}.{name} does not read shards")
    pinpoints = data.grid_pinpoints
    return replace(
        settings,
        tokenizer=data.tokenizer,
        template=data.template,
        system_prompt=data.system_prompt,
        max_length=data.max_length,
        tile_size=data.tile_size,
        grid_pinpoints=None if pinpoints is None else tuple((height, width) for height, width in pinpoints),
    )


def renderer_of(settings: MeasureSettings) -> ConversationRenderer | None:
    """Renders conversations as a training would, but for their whole length; None if there is no tokenizer.

    Raises:
        UserError: the tokenizer or the template cannot be loaded.
    """
    if settings.tokenizer is None:
        return None
    data = ShardsDataModule(
        settings.tokenizer,
        batch_size=1,
        tile_size=settings.tile_size,
        grid_pinpoints=None,
        template=settings.template,
        system_prompt=settings.system_prompt,
        max_length=_UNLIMITED,
    )
    return data.encoder.renderer
