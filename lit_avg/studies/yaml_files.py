"""How studies read YAML: as everything here does, see `lit_avg.strict_yaml`."""

from lit_avg.strict_yaml import read_yaml

__all__ = ["read_yaml"]
