"""How much memory a stretch of work needed at its highest, which a person with a small GPU wants to know of each stage.

Linux can start its high-water mark again (write "5" to /proc/self/clear_refs, see `man 5 proc`), so there the figure is
the stretch's own. Elsewhere it is the highest of the process so far.
"""

import resource
import sys
from pathlib import Path

KIBIBYTE = 1024
PROCESS_FOLDER = Path("/proc/self")


class PeakMemory:
    """Watches this process's memory from the moment it is made; two at once share one high-water mark."""

    def __init__(self, process_folder: Path = PROCESS_FOLDER) -> None:
        self._status = process_folder / "status"
        self._is_own = _start_again(process_folder / "clear_refs")
        cuda = _initialized_cuda()
        if cuda is not None:
            cuda.reset_peak_memory_stats()

    def resident_bytes(self) -> int:
        """The highest resident memory, of this stretch where the system can tell, else of the process so far."""
        if self._is_own:
            line = next(line for line in self._status.read_text().splitlines() if line.startswith("VmHWM:"))
            return int(line.split()[1]) * KIBIBYTE
        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return highest if sys.platform == "darwin" else highest * KIBIBYTE

    def device_bytes(self) -> int:
        """The most memory PyTorch had in use on the CUDA device; 0 where there is none in use."""
        cuda = _initialized_cuda()
        return 0 if cuda is None else cuda.max_memory_allocated()

    def reserved_bytes(self) -> int:
        """The most memory PyTorch held of the CUDA device, in use or not, which is what must fit; 0 without one."""
        cuda = _initialized_cuda()
        return 0 if cuda is None else cuda.max_memory_reserved()

    def device_bytes_now(self) -> int:
        """What PyTorch has in use on the CUDA device."""
        cuda = _initialized_cuda()
        return 0 if cuda is None else cuda.memory_allocated()


def _start_again(clear_refs: Path) -> bool:
    """Start the high-water mark again; False where the system has no such thing or does not allow it."""
    if not clear_refs.exists():
        return False
    try:
        clear_refs.write_text("5")
    except OSError:
        return False
    return True


def _initialized_cuda():
    """`torch.cuda` where the run already uses it; asking must neither import torch nor wake a device."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
