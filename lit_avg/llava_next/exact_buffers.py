"""Buffers that are moved with their module but keep their precision: rounded, they would mean something else.

`precision: bf16-true` converts a whole module. The frequencies of positions would then be off by some tenths of a
percent, which a few hundred tokens on is more than a whole turn; transformers keeps them in float32.
"""

from collections.abc import Callable
from typing import ClassVar, Self

from torch import Tensor, nn


class ExactBuffers(nn.Module):
    """A module in which some buffers, its own and those of its parts, are never converted."""

    exact: ClassVar[tuple[str, ...]]
    """How their names end."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Convert and move as torch does, and bring back what the buffers held."""
        kept = [
            (module, name, buffer)
            for module in self.modules()
            for name, buffer in module.named_buffers(recurse=False)
            if name.endswith(self.exact)
        ]
        super()._apply(fn, recurse)
        for module, name, buffer in kept:
            now = module.get_buffer(name)
            if now.dtype != buffer.dtype:
                setattr(module, name, buffer.to(now.device))
        return self
