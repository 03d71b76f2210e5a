"""Measures each step where it is taken, so that whoever hears of it later, or slowly, still hears what was true."""

import time
from dataclasses import replace

from helpers.reporting.events import MemoryUse, StepFinished
from helpers.reporting.peak_memory import PeakMemory


class StepTimer:
    """Watches the steps of a training from the moment it is made."""

    def __init__(self) -> None:
        self._peak = PeakMemory()
        self._resident, self._device, self._reserved = 0, 0, 0
        self._began = time.monotonic()

    def begin(self) -> None:
        """A step begins."""
        self._began = time.monotonic()

    def measured(self, step: StepFinished) -> StepFinished:
        """`step`, which is done, with its seconds and memory."""
        # A stage within training starts the process's mark again, so the highest so far is kept here.
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
