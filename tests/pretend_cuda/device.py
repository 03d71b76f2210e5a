"""Makes torch.cuda what it is with one card, upon the library of pretend.cpp; not for a process with a real GPU.

PRETEND_CUDA_GB: the card's memory, 24 unless set. PRETEND_CUDA_LOG: a file that all waits are written to at the end.
"""

import atexit
import contextlib
import ctypes
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.pretend_cuda.build import build

REPOSITORY = Path(__file__).resolve().parents[2]
NAME = "Pretend RTX"
CAPABILITY = (8, 9)
PLACES = 4
_HEAR = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_longlong)


@dataclass(frozen=True)
class Event:
    """A wait for the device, or a copy to or from it.

    kind: as pretend.cpp reports it. place: the repository's lines that led to it, the innermost first.
    """

    kind: str
    op: str
    place: str

    @property
    def waits(self) -> bool:
        return self.kind.endswith("waits")


events: Counter[Event] = Counter()
"""What has happened since `events.clear()`."""
_kept_alive: list[object] = []


def install() -> None:
    """Load the library and give torch.cuda its card. Before PyTorch is imported, which asks for its hooks once."""
    assert "torch" not in sys.modules, "PyTorch has looked for CUDA already"
    library = ctypes.CDLL(str(build()))
    for name in ("allocated", "peak"):
        getattr(library, f"pretend_{name}").restype = ctypes.c_longlong
    listener = _HEAR(_hear)
    _kept_alive.extend((library, listener))
    library.pretend_listen(listener)
    _replace_torch_cuda(library)
    if log := os.environ.get("PRETEND_CUDA_LOG"):
        atexit.register(_write_events, Path(log))


def loaded() -> Any:
    """The library."""
    return _kept_alive[0]


def compute_nothing() -> None:
    """From here on operators give tensors of the right sizes, whose numbers mean nothing, and memory is counted alone.

    Those on meta tensors, which they become, run PyTorch's C++ code wherever it has any: ten times faster than the
    Python code that it prefers.
    """
    import torch
    from torch import _meta_registrations as python

    def has(name: str, key: str) -> bool:
        return torch._C._dispatch_has_kernel_for_dispatch_key(name, key)

    loaded().pretend_hollow(1)
    python._meta_lib_dont_use_me_use_register_meta._destroy()
    shapes = torch.library.Library("aten", "IMPL", "Meta")
    _kept_alive.append(shapes)
    functions: dict[Any, Any] = {}
    for kind in ("meta", "post_autograd", "pre_autograd"):
        functions = {**python.global_decomposition_table[kind], **functions}
    for operator, function in functions.items():
        if not isinstance(operator, torch._ops.OpOverload) or operator.is_view:
            continue
        name = operator.name()
        if name.startswith("aten::") and not has(name, "CompositeImplicitAutograd") and not has(name, "Meta"):
            shapes.impl(operator, function)


def waits() -> dict[Event, int]:
    """How often the device was waited for, by place."""
    return {event: times for event, times in events.items() if event.waits}


def _hear(kind: bytes, op: bytes, size_bytes: int) -> None:
    events[Event(kind.decode(), op.decode(), _place())] += 1


def _place() -> str:
    found: list[str] = []
    frame = sys._getframe(2)
    while frame is not None and len(found) < PLACES:
        file = frame.f_code.co_filename
        if file.startswith(f"{REPOSITORY}/") and "/site-packages/" not in file:
            found.append(f"{file.removeprefix(f'{REPOSITORY}/')}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return " < ".join(found)


def _write_events(log: Path) -> None:
    lines = [f"{times:6d} {event.kind:18s} {event.op:28s} {event.place}" for event, times in events.most_common()]
    log.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


class PretendStream:
    """The only stream: each call is done when it returns."""

    def __init__(self, device: object = None, priority: int = 0, **named: object) -> None:
        import torch

        self.device = torch.device("cuda", 0)
        self.cuda_stream = self.stream_id = self.device_index = 0
        self.device_type = 1

    def wait_stream(self, stream: object) -> None: ...
    def wait_event(self, event: object) -> None: ...
    def synchronize(self) -> None: ...

    def record_event(self, event: Any = None) -> Any:
        return event or PretendEvent()

    def query(self) -> bool:
        return True

    def __enter__(self) -> "PretendStream":
        return self

    def __exit__(self, *raised: object) -> None: ...


class PretendEvent:
    """A moment in the stream."""

    def __init__(self, **named: object) -> None:
        self.seconds = 0.0

    def record(self, stream: object = None) -> None:
        self.seconds = time.perf_counter()

    def wait(self, stream: object = None) -> None: ...
    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: "PretendEvent") -> float:
        return (other.seconds - self.seconds) * 1e3


class PretendDevice:
    """`torch.cuda.device`: there is no other to change to."""

    def __init__(self, device: object) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *raised: object) -> None: ...


@contextlib.contextmanager
def _in_stream(stream: object) -> Iterator[None]:
    yield


def _replace_torch_cuda(library: Any) -> None:
    import torch
    import torch.cuda.amp.common

    total = int(float(os.environ.get("PRETEND_CUDA_GB", "24")) * 2**30)
    current = PretendStream()
    functions: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "init": lambda: None,
        "_lazy_init": lambda: None,
        "_is_in_bad_fork": lambda: False,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_name": lambda device=None: NAME,
        "get_device_properties": lambda device=None: _properties(total),
        "get_device_capability": lambda device=None: CAPABILITY,
        "is_bf16_supported": lambda including_emulation=True: True,
        "current_stream": lambda device=None: current,
        "default_stream": lambda device=None: current,
        "get_rng_state": lambda device="cuda": torch.random.get_rng_state(),
        "set_rng_state": lambda state, device="cuda": torch.random.set_rng_state(state),
        "get_rng_state_all": lambda: [torch.random.get_rng_state()],
        "set_rng_state_all": lambda states: torch.random.set_rng_state(states[0]),
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "ipc_collect": lambda: None,
        "mem_get_info": lambda device=None: (total - library.pretend_allocated(), total),
    }
    for name, function in functions.items():
        setattr(torch.cuda, name, function)
    for name, replacement in _memory_functions(library).items():
        for place in (torch.cuda, torch.accelerator):
            setattr(place, name, replacement)
    for name, replacement in {
        "Stream": PretendStream,
        "Event": PretendEvent,
        "device": PretendDevice,
        "stream": _in_stream,
    }.items():
        setattr(torch.cuda, name, replacement)
    torch.version.cuda = "13.0"
    for name in ("_cuda_getDevice", "_cuda_getCurrentRawStream"):
        setattr(torch._C, name, lambda device=0: 0)
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False


def _memory_functions(library: Any) -> dict[str, Callable[..., Any]]:
    """Of torch.cuda and of torch.accelerator."""
    return {
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "memory_allocated": lambda device=None: library.pretend_allocated(),
        "memory_reserved": lambda device=None: library.pretend_allocated(),
        "max_memory_allocated": lambda device=None: library.pretend_peak(),
        "max_memory_reserved": lambda device=None: library.pretend_peak(),
        "reset_peak_memory_stats": lambda device=None: library.pretend_reset_peak(),
    }


def _properties(total_bytes: int) -> SimpleNamespace:
    return SimpleNamespace(
        name=NAME,
        total_memory=total_bytes,
        major=CAPABILITY[0],
        minor=CAPABILITY[1],
        multi_processor_count=128,
        warp_size=32,
        is_integrated=False,
        regs_per_multiprocessor=65536,
        max_threads_per_multi_processor=1536,
        shared_memory_per_block=49152,
        shared_memory_per_block_optin=101376,
        L2_cache_size=2**25,
        gcnArchName="",
    )
