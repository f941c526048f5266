"""Group offloading with prefetch: the matrices of a block are loaded just before it runs and dropped afterwards.

The network's code is unchanged: it is created without weights, and hooks on its blocks set their parameters by name, so
unmerged LoRAs also work. The matrices of the next block are prefetched while the current one runs. Vectors and
parameters outside of blocks are small and stay resident. The timestep modulation matrices are loaded separately,
because they are used once for all steps, and only the required rows of a large embedding table are read.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cogvideox.pretrained.components import Network
from cogvideox.pretrained.offload.prefetch import make_prefetcher, trim_host_memory
from cogvideox.pretrained.offload.weight_store import DiskStore, WeightStore
from cogvideox.text.encoder import T5Encoder

EMBEDDING = "embed.weight"


def set_parameters(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Replace parameters of a network by name."""
    for name, tensor in tensors.items():
        module, _, parameter = name.rpartition(".")
        setattr(network.get_submodule(module), parameter, nn.Parameter(tensor, requires_grad=False))


def clear_parameters(network: nn.Module, names: Sequence[str], dtype: torch.dtype, device: torch.device) -> None:
    """Replace parameters with empty tensors of the given dtype and device to free their memory."""
    with torch.inference_mode(False):
        empty = torch.empty(0, dtype=dtype, device=device)
    set_parameters(network, dict.fromkeys(names, empty))


class OffloadGroups:
    """Names of tensors that are loaded and dropped together.

    Attributes:
        blocks: for each block, the matrices of its forward pass.
        modulation: for each block, the matrix that computes its modulation; empty if there is none.
        resident: all other tensors except the embedding table.
    """

    def __init__(self, expected: Mapping[str, Tensor]) -> None:
        num_blocks = 1 + max(int(name.split(".")[1]) for name in expected if name.startswith("blocks."))
        self.blocks: list[list[str]] = [[] for _ in range(num_blocks)]
        self.modulation: list[list[str]] = [[] for _ in range(num_blocks)]
        self.resident: list[str] = []
        for name, tensor in expected.items():
            if name == EMBEDDING:
                continue
            if name.startswith("blocks.") and tensor.ndim > 1:
                groups = self.modulation if ".modulation." in name else self.blocks
                groups[int(name.split(".")[1])].append(name)
            else:
                self.resident.append(name)


class BlockHooks:
    """Hooks that load the matrices of each block before it runs and drop them after it. Not thread-safe.

    Args:
        network: network on the meta device, with its resident parameters already set.
        expected: names and shapes of the network's tensors.
        store: source of the matrices.
        disk: source of the rows of the embedding table.
    """

    def __init__(
        self,
        network: Network,
        expected: Mapping[str, Tensor],
        groups: OffloadGroups,
        store: WeightStore,
        disk: DiskStore,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._network, self._groups, self._store = network, groups, store
        self._dtype, self._device = dtype, device
        meta = {name: torch.empty(expected[name].shape, dtype=dtype, device="meta") for name in expected}
        self._prefetcher = make_prefetcher(groups.blocks, store, meta, device)
        blocks: Any = network.blocks
        for i, block in enumerate(blocks):
            clear_parameters(network, [*groups.blocks[i], *groups.modulation[i]], dtype, device)
            block.register_forward_pre_hook(self._load_hook(i))
            block.register_forward_hook(self._drop_hook(i), always_call=True)
            if groups.modulation[i]:
                block.compute_modulation = self._with_modulation(i, block.compute_modulation)
        if isinstance(network, T5Encoder):
            clear_parameters(network, [EMBEDDING], dtype, device)
            network.embed.forward = lambda input: disk.lookup_rows(EMBEDDING, input)

    def reset(self) -> None:
        """Drop prefetched matrices. The network's next forward pass loads them again."""
        self._prefetcher.reset()

    def _load_hook(self, i: int) -> Callable[..., None]:
        def load(block: nn.Module, args: Any) -> None:
            set_parameters(self._network, self._prefetcher.get(i))

        return load

    def _drop_hook(self, i: int) -> Callable[..., None]:
        def drop(block: nn.Module, args: Any, output: Any) -> None:
            clear_parameters(self._network, self._groups.blocks[i], self._dtype, self._device)
            self._prefetcher.done()

        return drop

    def _with_modulation(self, i: int, compute: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        names = self._groups.modulation[i]

        def load_and_compute(emb: Tensor) -> Any:
            set_parameters(self._network, self._store.fetch(names))
            try:
                return compute(emb)
            finally:
                clear_parameters(self._network, names, self._dtype, self._device)
                trim_host_memory(self._device)

        return load_and_compute
