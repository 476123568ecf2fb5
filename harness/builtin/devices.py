"""CPU, CUDA and Apple's MPS behind one contract.

torch is imported when a device is used, so that listing stays fast.
"""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from harness.contracts import Device, DeviceSpec, Model, ModelSize
from harness.hookspecs import hookimpl
from harness.paying import uncounted

if TYPE_CHECKING:
    import torch

TOLERANCE = {"torch.float32": 1e-3, "torch.bfloat16": 5e-2}
"""Largest |logits - CPU's float32 logits| over the largest |CPU's logits| that `self_check` lets pass."""

SMALL_MODEL = 20_000_000
"""Parameters below which matrices are too small to be worth sharing among threads."""


def processor_name() -> str:
    """The processor as its maker calls it, where the system tells."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def process_peak_bytes() -> int:
    """Highest resident memory of this process so far."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # noqa: PLC0415 - absent on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kibibytes


@contextlib.contextmanager
def arithmetic_for(size: ModelSize) -> Iterator[None]:
    """Inside, one thread where the model is so small that several would only wait for each other; no denormal numbers.

    Numbers below 1.2e-38 are taken for 0, as accelerators do. Processors work them out many times slower, and the tails
    of a softmax are full of them: without, training took 10 % longer and sampling 11 %.
    """
    import torch  # noqa: PLC0415 - slow to import

    before = torch.get_num_threads()
    if size.parameters < SMALL_MODEL:
        torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)


def describe(device: Device) -> dict[str, Any]:
    """Facts that every device records."""
    import torch  # noqa: PLC0415 - slow to import

    return {
        "device": device.name,
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "dtype": str(device.dtype()).removeprefix("torch."),
        "torch": str(torch.__version__),
        "system": platform.platform(terse=True),
    }


@dataclass
class Cpu:
    """The processor, in float32: few processors have fast bfloat16, and those that lack it are tens of times slower."""

    name: str = "cpu"

    def available(self) -> bool:
        """Always."""
        return True

    def dtype(self) -> torch.dtype:
        """float32."""
        import torch  # noqa: PLC0415 - slow to import

        return torch.float32

    def place(self, module: torch.nn.Module) -> torch.nn.Module:
        """Move a module here, in float32."""
        return module.to(device=self.name, dtype=self.dtype())

    def synchronize(self) -> None:
        """Nothing is queued on a processor."""

    def reset_peak_memory(self) -> None:
        """A process cannot forget its peak."""

    def peak_memory_bytes(self) -> int:
        """Highest resident memory of the process, ever."""
        return process_peak_bytes()

    def seed(self, seed: int) -> None:
        """Seed torch's generators."""
        import torch  # noqa: PLC0415 - slow to import

        torch.manual_seed(seed)

    def describe(self) -> Mapping[str, Any]:
        """Facts of the machine."""
        return describe(self)


@dataclass
class Cuda:
    """The current NVIDIA (or ROCm) device, in bfloat16 where it has it."""

    name: str = "cuda"

    def available(self) -> bool:
        """Whether torch finds one."""
        import torch  # noqa: PLC0415 - slow to import

        return torch.cuda.is_available()

    def dtype(self) -> torch.dtype:
        """bfloat16, or float32 on devices before it."""
        import torch  # noqa: PLC0415 - slow to import

        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32

    def place(self, module: torch.nn.Module) -> torch.nn.Module:
        """Move a module here, in `dtype`."""
        return module.to(device=self.name, dtype=self.dtype())

    def synchronize(self) -> None:
        """Wait for queued kernels."""
        import torch  # noqa: PLC0415 - slow to import

        torch.cuda.synchronize()

    def reset_peak_memory(self) -> None:
        """Start a new peak."""
        import torch  # noqa: PLC0415 - slow to import

        torch.cuda.reset_peak_memory_stats()

    def peak_memory_bytes(self) -> int:
        """Most bytes that tensors took since the reset."""
        import torch  # noqa: PLC0415 - slow to import

        return torch.cuda.max_memory_allocated()

    def seed(self, seed: int) -> None:
        """Seed the processor's and every card's generator."""
        import torch  # noqa: PLC0415 - slow to import

        torch.manual_seed(seed)
        torch.cuda.manual_seed_all(seed)

    def describe(self) -> Mapping[str, Any]:
        """Facts of the machine and its card."""
        import torch  # noqa: PLC0415 - slow to import

        return {**describe(self), "accelerator": torch.cuda.get_device_name()}


@dataclass
class Mps:
    """Apple's GPU, in float32; it has no float64, so nothing here may ask for it."""

    name: str = "mps"

    def available(self) -> bool:
        """Whether torch was built for it and finds one."""
        import torch  # noqa: PLC0415 - slow to import

        return torch.backends.mps.is_available()

    def dtype(self) -> torch.dtype:
        """float32."""
        import torch  # noqa: PLC0415 - slow to import

        return torch.float32

    def place(self, module: torch.nn.Module) -> torch.nn.Module:
        """Move a module here; the type changes first, as float64 cannot be moved."""
        return module.to(dtype=self.dtype()).to(device=self.name)

    def synchronize(self) -> None:
        """Wait for queued kernels."""
        import torch  # noqa: PLC0415 - slow to import

        torch.mps.synchronize()

    def reset_peak_memory(self) -> None:
        """Give cached blocks back, so that the figure starts from what is in use."""
        import torch  # noqa: PLC0415 - slow to import

        torch.mps.empty_cache()

    def peak_memory_bytes(self) -> int:
        """Bytes the driver holds for this process, cache included: MPS keeps no peak, and its cache only grows."""
        import torch  # noqa: PLC0415 - slow to import

        return torch.mps.driver_allocated_memory()

    def seed(self, seed: int) -> None:
        """Seed the processor's and the GPU's generator."""
        import torch  # noqa: PLC0415 - slow to import

        torch.manual_seed(seed)
        torch.mps.manual_seed(seed)

    def describe(self) -> Mapping[str, Any]:
        """Facts of the machine."""
        return describe(self)


def self_check(device: Device, model: Model) -> float:
    """Compare logits of `model` on its device with the same weights' on the CPU: the relative difference.

    Raises:
        RuntimeError: it is above `TOLERANCE` for the device's type, or not a number.
    """
    import copy  # noqa: PLC0415 - beside torch

    import torch  # noqa: PLC0415 - slow to import

    words = int(model.module.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
    ids = torch.arange(min(16, model.context))[None] * 7919 % words  # a fixed text that walks over the vocabulary
    with torch.no_grad(), uncounted():
        here = model.module(input_ids=ids.to(device.name)).logits.float().cpu()
        twin = copy.deepcopy(model.module).to("cpu").float()
        there = twin(input_ids=ids).logits
    difference = float((here - there).abs().max() / there.abs().max())
    limit = TOLERANCE.get(str(device.dtype()), TOLERANCE["torch.float32"])
    if not difference <= limit:
        msg = (
            f"logits on {device.name} differ from the CPU's by {difference:.2g} of the largest; {limit:.2g} is allowed"
        )
        raise RuntimeError(msg)
    return difference


@hookimpl
def harness_devices() -> list[DeviceSpec]:
    """In the order in which `auto` tries them."""
    return [
        DeviceSpec("cuda", "NVIDIA or AMD card, bfloat16", Cuda),
        DeviceSpec("mps", "Apple GPU, float32", Mps),
        DeviceSpec("cpu", "processor, float32", Cpu),
    ]
