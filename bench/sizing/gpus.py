"""What NVIDIA's data sheets promise of GPUs. Nothing here was measured, and no GPU has ever run this project."""

from __future__ import annotations

from dataclasses import dataclass

TERA, GIGA = 1e12, 1e9
# PCI Express, 16 lanes, one direction, bytes a second: generation 3, 4, 5.
PCIE3, PCIE4, PCIE5 = 15.75 * GIGA, 31.5 * GIGA, 63.0 * GIGA


@dataclass(frozen=True)
class Gpu:
    """Peaks without sparsity; where a sheet has only sparse ones, their halves. `half`, `single`: operations a
    second of products in float16 (accumulated in float32) and of float32 ones, in TF32 where there is that
    (onnxruntime's CUDA provider takes it by default). `bandwidth`,
    `bus`: bytes a second of its memory, and from the host. `memory`: bytes."""

    name: str
    half: float
    single: float
    bandwidth: float
    memory: float
    bus: float
    source: str


GPUS = (
    Gpu("T4", 65 * TERA, 8.1 * TERA, 320 * GIGA, 16 * GIGA, PCIE3, "NVIDIA T4 data sheet"),
    Gpu("L4", 121 * TERA, 60 * TERA, 300 * GIGA, 24 * GIGA, PCIE4, "NVIDIA L4 data sheet"),
    Gpu("A10G", 70 * TERA, 35 * TERA, 600 * GIGA, 24 * GIGA, PCIE4, "NVIDIA A10G data sheet"),
    Gpu("A100 40 GB", 312 * TERA, 156 * TERA, 1555 * GIGA, 40 * GIGA, PCIE4, "NVIDIA A100 data sheet"),
    Gpu("A100 80 GB", 312 * TERA, 156 * TERA, 1935 * GIGA, 80 * GIGA, PCIE4, "NVIDIA A100 data sheet, PCIe"),
    Gpu("L40S", 362 * TERA, 183 * TERA, 864 * GIGA, 48 * GIGA, PCIE4, "NVIDIA L40S data sheet"),
    Gpu("RTX 4090", 165 * TERA, 82.6 * TERA, 1008 * GIGA, 24 * GIGA, PCIE4, "NVIDIA Ada architecture white paper"),
    Gpu("H100", 989 * TERA, 494 * TERA, 3350 * GIGA, 80 * GIGA, PCIE5, "NVIDIA H100 data sheet, SXM"),
    Gpu("H200", 989 * TERA, 494 * TERA, 4800 * GIGA, 141 * GIGA, PCIE5, "NVIDIA H200 data sheet, SXM"),
)  # fmt: skip
