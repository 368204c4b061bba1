"""`LiveMemory`: the bytes of all tensors that are alive, as one step makes them and lets them go.

It sees what every operation of torch gives, forward and backward, and counts each storage once until nothing holds it
any more. It asks for sizes alone, so that the tensors may be fake: then a step of any size is gone through without
memory, and what it would take is what its own code takes, whatever the architecture, the parts that are frozen and
what is recomputed.

Of a stack of equal layers a few are enough. One that stands for several counts that often: what its forward pass leaves
alive for the backward pass, and the gradients of its weights. What it holds only while it is computed counts once, as
layers are computed one after the other.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

BETWEEN = "between"
"""What memory is told under that no module's forward pass made: what goes back, and what lies between modules."""

GRADIENTS = "gradients"
"""Those of weights, as soon as they are kept."""

_aten = torch.ops.aten


class LiveMemory(TorchDispatchMode):
    """Counts while it is entered.

    Args:
        parts: names modules whose memory is told apart.
        repeated: modules that stand for several, and for how many.

    What is asked of fake numbers is answered by 0, which is False: whatever can be masked, is.
    """

    def __init__(self, parts: Mapping[str, nn.Module], repeated: Mapping[nn.Module, int]) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self.by_part: dict[str, int] = {}
        self.at_peak: dict[str, int] = {}
        self.most: dict[str, int] = {}  # of each part, whenever that is
        self._live: dict[int, tuple[int, str]] = {}  # bytes and part of each storage
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._part = [BETWEEN]
        self._made: list[list[weakref.ref[torch.UntypedStorage]]] = []  # in each repeated layer that is computed
        self._hooks: list[RemovableHandle] = []
        self._times_of_weight: dict[int, int] = {}
        self._left_out = set[int]()
        for name, module in parts.items():
            self._hooks.append(module.register_forward_pre_hook(lambda *_, name=name: self._part.append(name)))
            self._hooks.append(module.register_forward_hook(lambda *_: self._part.pop() and None))
        for module, times in repeated.items():
            self._repeat(module, times)

    def count(self, tensors: Iterable[Tensor]) -> None:
        """Take in tensors that were there before."""
        for tensor in tensors:
            self._see(tensor)

    def leave_out(self, tensors: Iterable[Tensor]) -> None:
        """Count no memory of tensors that were there before, whoever looks at them."""
        self._left_out |= {_key(tensor.untyped_storage()) for tensor in tensors}

    def release(self) -> None:
        """Take all hooks off the modules."""
        for hook in self._hooks:
            hook.remove()

    def keep_gradients(self, weights: Iterable[nn.Parameter]) -> None:
        """Tell gradients apart, as often as the layers they are of; call it unless they are handed on as they come."""
        for weight in weights:
            times = self._times_of_weight.setdefault(id(weight), 1)
            self._hooks.append(weight.register_post_accumulate_grad_hook(self._keep(times)))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Let an operation happen and look at what it gives."""
        if isinstance(args[0] if args else None, FakeTensor):
            if func is _aten._local_scalar_dense.default:
                return 0
            if func is _aten.index.Tensor:
                args = (args[0], _places(args[1]), *args[2:])
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._see(tensor)
                if func is _aten.zeros_like.default and id(args[0]) in self._times_of_weight:
                    self._claim(tensor, self._times_of_weight[id(args[0])])
        return result

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = _key(storage)
        if key in self._live or key in self._left_out or not storage.nbytes():
            return
        self._alive[key] = weakref.ref(storage, lambda _: self._forget(key))
        if self._made:
            self._made[-1].append(weakref.ref(storage))
        self._add(key, storage.nbytes(), self._part[-1])

    def _add(self, key: int, size: int, part: str) -> None:
        before = self._live.get(key, (0, part))[0]
        self._live[key] = before + size, part
        self.now += size
        self.by_part[part] = self.by_part.get(part, 0) + size
        self.most[part] = max(self.most.get(part, 0), self.by_part[part])
        if self.now > self.peak:
            self.peak, self.at_peak = self.now, dict(self.by_part)

    def _forget(self, key: int) -> None:
        size, part = self._live.pop(key)
        del self._alive[key]
        self.now -= size
        self.by_part[part] -= size

    def _claim(self, gradient: Tensor, times: int) -> None:
        """Have a gradient count as one, as often as there are layers like its weight's."""
        key = _key(gradient.untyped_storage())
        if (known := self._live.get(key)) is None or known[1] == GRADIENTS:
            return
        part = known[1]
        self.now -= known[0]
        self.by_part[part] -= known[0]
        self._live[key] = 0, GRADIENTS
        self._add(key, times * gradient.untyped_storage().nbytes(), GRADIENTS)

    def _keep(self, times: int) -> Callable[[Tensor], None]:
        def keep(weight: Tensor) -> None:
            if weight.grad is not None:
                self._claim(weight.grad, times)

        return keep

    def _repeat(self, module: nn.Module, times: int) -> None:
        def begin(*_: object) -> None:
            self._made.append([])

        def end(_: nn.Module, __: object, output: object) -> None:
            made = self._made.pop()
            kept = any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(output))
            if not kept or _goes_back():  # nothing is kept, or it is recomputed
                return
            for reference in made:
                if (storage := reference()) is not None:
                    size, part = self._live[_key(storage)]
                    self._add(_key(storage), (times - 1) * size, part)

        self._hooks += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
        self._times_of_weight |= {id(weight): times for weight in module.parameters()}


def _key(storage: torch.UntypedStorage) -> int:
    """Where a storage lies, be it without content."""
    return storage._cdata  # pyright: ignore[reportPrivateUsage]  fake storages have no public address


def _goes_back() -> bool:
    """Whether this is within a backward pass."""
    return torch._C._current_graph_task_id() != -1  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType, reportAttributeAccessIssue]  torch's own checkpointing asks so


def _places(indices: list[Tensor | None]) -> list[Tensor | None]:
    """Indices without masks: how many of fake elements a mask takes, nobody could tell."""
    places: list[Tensor | None] = []
    for index in indices:
        if index is None or index.dtype != torch.bool or isinstance(index, FakeTensor):
            places.append(index)
        else:
            places += index.nonzero(as_tuple=True)
    return places
