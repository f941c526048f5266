"""Compute rates and memory of GPUs by name.

`peak` and the memory are values of data sheets: dense bfloat16 with float32 accumulation, or float16 where bfloat16 is
missing (V100, T4). The other compute rates are estimates: from published generation times of these models (A100, H100),
and otherwise a fraction of `peak` as for similar GPUs.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """Compute and transfer rates of a device.

    Attributes:
        linear, attention, convolution: FLOP/s.
        transfer: bytes per second from host memory to the device; on a CPU, of the cast to float32.
        peak: dense bfloat16 FLOP/s according to the data sheet; None if unknown.
    """

    linear: float
    attention: float
    convolution: float
    transfer: float
    peak: float | None = None


@dataclass(frozen=True)
class GPU:
    """A GPU on the market.

    Attributes:
        memory: GiB; None if the GPU is sold with several sizes.
        rates: in bfloat16 or float16, without compilation.
    """

    memory: int | None
    rates: Rates


def _gpu(memory: int | None, peak: float | int, linear: int, attention: int, convolution: int, transfer: int) -> GPU:
    """Create a GPU from TFLOP/s and, for the transfer, GB/s."""
    return GPU(memory, Rates(1e12 * linear, 1e12 * attention, 1e12 * convolution, 1e9 * transfer, 1e12 * peak))


# The first key that occurs in the device's name, not followed by a digit, applies.
# Columns: memory (GiB); peak, linear, attention, convolution (TFLOP/s); transfer (GB/s).
GPUS: dict[str, GPU] = {
    "B200": _gpu(180, 2250, 900, 500, 400, 50),
    "GH200": _gpu(96, 989, 450, 300, 200, 100),
    "H200": _gpu(141, 989, 450, 300, 200, 45),
    "H100 PCIe": _gpu(80, 756, 340, 230, 150, 45),
    "H100 NVL": _gpu(94, 835, 380, 250, 170, 45),
    "H100": _gpu(80, 989, 450, 300, 200, 45),
    "MI300X": _gpu(192, 1307, 400, 250, 150, 40),
    "A100": _gpu(None, 312, 200, 120, 80, 20),
    "L40S": _gpu(48, 362, 130, 85, 50, 20),
    "L40": _gpu(48, 181, 130, 85, 50, 20),
    "L4": _gpu(24, 121, 43, 28, 17, 20),
    "A10G": _gpu(24, 70, 34, 23, 14, 20),
    "A10": _gpu(24, 125, 60, 40, 25, 20),
    "V100": _gpu(None, 125, 70, 30, 30, 10),
    "T4": _gpu(16, 65, 22, 12, 8, 8),
    "RTX PRO 6000": _gpu(96, 503.8, 225, 150, 90, 40),
    "RTX 6000 Ada": _gpu(48, 364.2, 130, 85, 50, 20),
    "A6000": _gpu(48, 154.8, 70, 47, 28, 20),
    "RTX 5090": _gpu(32, 209.5, 150, 100, 60, 40),
    "RTX 5080": _gpu(16, 112.6, 80, 54, 33, 40),
    "RTX 5070 Ti": _gpu(16, 87.9, 63, 42, 26, 40),
    "RTX 5070": _gpu(12, 61.7, 44, 30, 18, 40),
    "RTX 5060 Ti": _gpu(None, 47.4, 34, 23, 14, 20),
    "RTX 4090": _gpu(24, 165.2, 120, 80, 50, 20),
    "RTX 4080": _gpu(16, 97.5, 75, 50, 30, 20),
    "RTX 4070 Ti SUPER": _gpu(16, 88.2, 63, 42, 26, 20),
    "RTX 4070 Ti": _gpu(12, 80.2, 58, 38, 24, 20),
    "RTX 4070": _gpu(12, 58.3, 42, 28, 17, 20),
    "RTX 4060 Ti": _gpu(None, 44.1, 32, 21, 13, 10),
    "RTX 4060": _gpu(8, 30.2, 22, 15, 9, 10),
    "RTX 3090": _gpu(24, 71, 50, 35, 20, 20),
    "RTX 3080 Ti": _gpu(12, 68.2, 48, 33, 19, 20),
    "RTX 3080": _gpu(10, 59.5, 42, 29, 17, 20),
    "RTX 3070": _gpu(8, 40.6, 29, 20, 12, 20),
    "RTX 3060 Ti": _gpu(8, 32.4, 23, 16, 9, 20),
    "RTX 3060": _gpu(12, 25.5, 18, 12, 7, 20),
}
UNKNOWN_GPU = Rates(20e12, 13e12, 8e12, 10e9)
"""Low rates, assumed for other GPUs."""


def gpu_rates(name: str, dtype: str) -> Rates:
    """Return the rates of a GPU by name; low rates if it is unknown. float32 has an eighth of the 16-bit rates."""
    gpu = find_gpu(name)
    rates = UNKNOWN_GPU if gpu is None else gpu.rates
    if dtype != "float32":
        return rates
    return Rates(rates.linear / 8, rates.attention / 8, rates.convolution / 8, rates.transfer, rates.peak)


def gpu_memory(name: str) -> int | None:
    """Return the memory of a GPU in GiB: the size in its name (`A100 40GB`), or that of the table; None if unknown."""
    if size := re.search(r"\b(\d+) ?GB\b", name, re.I):
        return int(size[1])
    gpu = find_gpu(name)
    return None if gpu is None else gpu.memory


def find_gpu(name: str) -> GPU | None:
    """Return the GPU of the table with this name; None if it is unknown, as laptop GPUs are, which are slower."""
    if re.search("laptop|mobile", name, re.I):
        return None
    return next((gpu for key, gpu in GPUS.items() if re.search(rf"{key}(?!\d)", name, re.I)), None)
