"""Jersey, the embedded data set: one player in a crowd, five questions on each image, drawn on first use."""

from datamodules.jersey.datamodule import Jersey
from datamodules.jersey.dense import JerseyPatches
from datamodules.jersey.symbols import JerseySymbols

__all__ = ["Jersey", "JerseyPatches", "JerseySymbols"]
