"""Reports long work: each stage with its rate, time left and peak memory, each step with its seconds and memory.

Linux can reset a process's memory high-water mark (write "5" to /proc/self/clear_refs, see `man 5 proc`), so there a
stage's peak memory is its own. Elsewhere it is the highest of the process so far.
"""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from helpers.reporting.events import MemoryUse, StageAdvanced, StageFinished, StageStarted, StepFinished
from helpers.reporting.reporter import Reporter

Advance = Callable[..., None]


KIBIBYTE = 1024
PROCESS_FOLDER = Path("/proc/self")


@contextmanager
def stage(reporter: Reporter, name: str, *, total: int, unit: str) -> Iterator[Advance]:
    """Report work of `total` units (0: not known) to `reporter` while the block runs.

    name: what is done, such as `encode images`; unit: the plural of what is counted, such as `images`.
    Yields `advance(count=1)`, to be called from any thread as units are done. Work that raises is not reported as
    finished. Stages must not nest, because the process has one high-water mark of memory.
    """
    reporter.handle(StageStarted(name=name, total=total, unit=unit))
    peak = PeakMemory()  # after the event, so that a listener can still read the peak before this
    started = time.monotonic()

    def advance(count: int = 1) -> None:
        reporter.handle(StageAdvanced(name=name, count=count))

    yield advance
    reporter.handle(
        StageFinished(
            name=name,
            seconds=time.monotonic() - started,
            peak_memory_bytes=peak.resident_bytes(),
            peak_device_memory_bytes=peak.device_bytes(),
            peak_reserved_memory_bytes=peak.reserved_bytes(),
        )
    )


class StepTimer:
    """Measures the seconds and the peak memory of each training step, from the moment it is created."""

    def __init__(self) -> None:
        self._peak = PeakMemory()
        self._resident, self._device, self._reserved = 0, 0, 0
        self._began = time.monotonic()

    def begin(self) -> None:
        """Mark the start of a step."""
        self._began = time.monotonic()

    def measured(self, step: StepFinished) -> StepFinished:
        """`step`, which has just finished, with its seconds and the peak memory since training began."""
        # A stage within training, such as validation, resets the peaks, so the highest so far is kept here.
        self._resident = max(self._resident, self._peak.resident_bytes())
        self._device = max(self._device, self._peak.device_bytes())
        self._reserved = max(self._reserved, self._peak.reserved_bytes())
        memory = MemoryUse(
            peak_bytes=self._resident,
            device_bytes=self._peak.device_bytes_now(),
            peak_device_bytes=self._device,
            peak_reserved_bytes=self._reserved,
        )
        return replace(step, seconds=time.monotonic() - self._began, memory=memory)


class PeakMemory:
    """The peak memory of this process since it was created; creating another one resets the peaks for both."""

    def __init__(self, process_folder: Path = PROCESS_FOLDER) -> None:
        self._status = process_folder / "status"
        self._is_own = _reset_peak(process_folder / "clear_refs")
        cuda = _initialized_cuda()
        if cuda is not None:
            cuda.reset_peak_memory_stats()

    def resident_bytes(self) -> int:
        """The peak resident memory in bytes; where the system cannot reset it, that of the process so far."""
        if self._is_own:
            line = next(line for line in self._status.read_text().splitlines() if line.startswith("VmHWM:"))
            return int(line.split()[1]) * KIBIBYTE
        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return highest if sys.platform == "darwin" else highest * KIBIBYTE

    def device_bytes(self) -> int:
        """The peak VRAM in bytes that PyTorch's tensors used; 0 without a CUDA device."""
        cuda = _initialized_cuda()
        return 0 if cuda is None else cuda.max_memory_allocated()

    def reserved_bytes(self) -> int:
        """The peak VRAM in bytes that PyTorch reserved, which is what must fit; 0 without a CUDA device."""
        cuda = _initialized_cuda()
        return 0 if cuda is None else cuda.max_memory_reserved()

    def device_bytes_now(self) -> int:
        """The VRAM in bytes that PyTorch's tensors use now; 0 without a CUDA device."""
        cuda = _initialized_cuda()
        return 0 if cuda is None else cuda.memory_allocated()


def _reset_peak(clear_refs: Path) -> bool:
    """Reset the high-water mark; False where the system has none or does not allow it."""
    if not clear_refs.exists():
        return False
    try:
        clear_refs.write_text("5")
    except OSError:
        return False
    return True


def _initialized_cuda():
    """`torch.cuda` if the run already uses it; this must neither import torch nor initialize a device."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
