"""Devices that a plan may be made for: how fast they multiply matrices, and how much they hold.

Rates are those of dense bfloat16 products with float32 sums, as the makers' data sheets have them; where a data sheet
tells the rate with sparsity, half of it.
"""

from dataclasses import dataclass

from lit_avg.utils.errors import UserError


@dataclass(frozen=True)
class Gpu:
    """One device."""

    tflops: float  # bfloat16, dense
    memory: float  # GiB


GPUS = {
    "b200": Gpu(2250, 180),  # NVIDIA DGX B200 data sheet: 72 PFLOP/s FP8 of 8 with sparsity, a quarter of it dense bf16
    "h200": Gpu(989, 141),  # NVIDIA H200 data sheet: 1,979 with sparsity
    "h100": Gpu(989, 80),  # NVIDIA H100 data sheet, SXM: 1,979 with sparsity
    "h100-pcie": Gpu(756, 80),  # the same, PCIe: 1,513 with sparsity
    "a100": Gpu(312, 80),  # NVIDIA A100 data sheet, 80 GB
    "a100-40gb": Gpu(312, 40),  # the same, 40 GB
    "l40s": Gpu(362, 48),  # NVIDIA L40S data sheet: 733 with sparsity, 362.05 without
    "a6000": Gpu(155, 48),  # NVIDIA Ampere GA102 whitepaper, RTX A6000: 154.8
    "a10g": Gpu(70, 24),  # AWS and NVIDIA A10G: 70
    "l4": Gpu(121, 24),  # NVIDIA L4 data sheet: 242 with sparsity
    "5090": Gpu(209.5, 32),  # NVIDIA RTX Blackwell whitepaper, RTX 5090: 209.5
    "4090": Gpu(165.2, 24),  # NVIDIA Ada whitepaper, RTX 4090: 165.2
    "3090": Gpu(71, 24),  # NVIDIA Ampere GA102 whitepaper, RTX 3090: 71
}
"""By the names that `--gpu` takes."""


def gpu_named(name: str) -> Gpu:
    """The device of that name.

    Raises:
        UserError: there is none.
    """
    if name.lower() not in GPUS:
        raise UserError(f"--gpu: there is no {name}; choose one of {', '.join(GPUS)}, or give --tflops and --memory")
    return GPUS[name.lower()]
