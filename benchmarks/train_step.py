"""A training step of ours beside the plain loop that diffusers' example takes, in one run on one machine.

`python -m benchmarks.train_step` runs a small model on a processor, and SD3 medium's and 3.5 large's shapes with random
weights on a CUDA device; every argument narrows it down, such as `--models "SD3 medium" --pixels 1024 --batches 8
--kinds lora --compilers inductor --precisions no_change`, and `--aims` measures what the aims are of, and no more. It
prints seconds of a step, images a second, the share of the matrix products per second that were measured in the same
run (recomputing not counted), peak memory, and how many times as quick as the plain loop a step is: bf16 autocast,
PEFT, AdamW, checkpointing. Then each aim, and whether it is met.
"""

import argparse
import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks.step_cases import MODELS, Case, operations_of, our_step, plain_step
from helpers.config.options.model import PrecisionOptions
from helpers.config.options.training import RunOptions
from helpers.models.quantization import UNQUANTIZED
from helpers.reporting.progress import PeakMemory
from helpers.training.distributed.runtime import Runtime, open_runtime

WARM_UP_STEPS = 3
PLAIN = "plain loop"
LEVELS = (UNQUANTIZED, "int8-quanto", "int4-quanto", "int2-quanto", "fp8-quanto")
INT8 = "int8-quanto"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Seconds of a step (the median), and the most memory in bytes."""

    seconds: float
    peak_bytes: int


@dataclass(frozen=True, kw_only=True)
class Result:
    """A step of ours. share: of the measured matrix products; quicker: than the plain loop, times (0: that failed)."""

    case: Case
    share: float
    quicker: float
    gigabytes: float


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What a `case` is to reach on an H200, compiled or not: at least or at most `bound`."""

    what: str
    case: Case
    of: Callable[[Result], float]
    bound: float
    at_most: bool = False

    def verdict(self, results: Sequence[Result]) -> str:
        """Whether the best of the results of this aim's case is good enough; its checkpointing may be any at speed."""
        fitting = [each for each in results if self._same(each.case)]
        if not fitting:
            return f"not measured: {self.what}"
        best = (min if self.at_most else max)(self.of(each) for each in fitting)
        met = best <= self.bound if self.at_most else best >= self.bound
        return f"{'met' if met else 'not met'}: {self.what}: {best:.2f}"

    def _same(self, case: Case) -> bool:
        same = replace(case, compiler=self.case.compiler)
        return self.case == (same if self.at_most else replace(same, interval=self.case.interval))


def aims() -> Iterator[Aim]:
    """Those of issue 5."""
    for model, gigabytes in (("SD3 medium", 6.0), ("SD3.5 large", 12.0)):
        fast = Case(model=model, kind="lora", pixels=1024, batch=8)
        what = f"{model}, LoRA, 1024 px, bf16, 8 at once"
        yield Aim(what=f"{what}: 2 times the plain loop", case=fast, of=lambda each: each.quicker, bound=2)
        yield Aim(what=f"{what}: 0.55 of the matrix products", case=fast, of=lambda each: each.share, bound=0.55)
        small = replace(fast, batch=1, precision=INT8)
        what = f"{model}, LoRA, 1024 px, int8, one at once, checkpointed"
        yield _in_memory(f"{what}: at most {gigabytes:.0f} GB", small, gigabytes)
    offloaded = replace(small, offload=MODELS[model].layers)
    yield _in_memory(f"{what}, blocks offloaded: under 8 GB", offloaded, 8.0)


def _in_memory(what: str, case: Case, gigabytes: float) -> Aim:
    return Aim(what=what, case=case, of=lambda each: each.gigabytes, bound=gigabytes, at_most=True)


def cases_of_aims() -> Iterator[Case]:
    """Each aim's; at speed without checkpointing too, and with half of it, where memory allows."""
    for case in dict.fromkeys(aim.case for aim in aims()):
        yield case
        if case.batch > 1:
            yield from (replace(case, compiler="inductor", interval=interval) for interval in (1, 2, 0))


def measure(step: Callable[[], object], device: torch.device, *, steps: int) -> Measured:
    """Take so many steps after those that warm up; each ends with numbers that have arrived."""
    for _ in range(WARM_UP_STEPS):
        step()
    peak = PeakMemory()
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return Measured(
        seconds=statistics.median(seconds),
        peak_bytes=peak.device_bytes() if device.type == "cuda" else peak.resident_bytes(),
    )


def products_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Floating point operations a second of the largest matrix product that is quick: the best of several."""
    edge = 8192 if device.type == "cuda" else 1024
    one, other = (torch.randn(edge, edge, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(12):
        started = time.perf_counter()
        one @ other
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return 2 * edge**3 / min(times)


def released(work: Callable[[], Measured]) -> Measured | None:
    """Do `work`, and give back what it held; None where memory does not suffice."""
    try:
        return work()
    except torch.OutOfMemoryError:
        return None
    finally:
        gc.collect()
        torch._dynamo.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def name_of(case: Case) -> str:
    """What of a case of ours differs from the plain loop."""
    parts = [
        case.precision,
        "compiled" if case.compiler != "no" else "",
        {0: "kept", 1: ""}.get(case.interval, f"every {case.interval}"),
        f"{case.offload} away" if case.offload else "",
    ]
    return " ".join(part for part in parts if part)


def compare(variants: Sequence[Case], runtime: Runtime, *, steps: int, peak: float) -> Iterator[Result]:
    """Measure the plain loop and each variant, which differ in nothing that it knows, and print a row of each."""
    first = variants[0]
    operations = operations_of(first)

    def row(name: str, found: Measured | None) -> None:
        label = f"{first.model:<12} {first.kind:<5} {first.pixels:>5} {first.batch:>3} {name:<31}"
        if found is None:
            print(f"{label} out of memory", flush=True)
            return
        ratio = f"{plain.seconds / found.seconds:>8.2f}" if plain else ""
        share = operations / found.seconds / peak
        figures = f"{found.seconds:>8.3f} {first.batch / found.seconds:>9.2f} {share:>6.1%}"
        print(f"{label} {figures} {found.peak_bytes / 1e9:>8.2f} {ratio}", flush=True)

    plain = released(lambda: measure(plain_step(first, runtime), runtime.device, steps=steps))
    row(PLAIN, plain)
    for case in variants:
        found = released(lambda each=case: measure(our_step(each, runtime), runtime.device, steps=steps))
        row(name_of(case), found)
        if found is not None:
            yield Result(
                case=case,
                share=operations / found.seconds / peak,
                quicker=plain.seconds / found.seconds if plain else 0.0,
                gigabytes=found.peak_bytes / 1e9,
            )


def arguments() -> argparse.Namespace:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--aims", action="store_true", help="only what the aims are of; for a CUDA device")
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, default=["SD3 medium", "SD3.5 large"] if cuda else ["small"]
    )
    parser.add_argument("--kinds", nargs="+", choices=("lora", "full"), default=["lora", "full"])
    parser.add_argument("--pixels", nargs="+", type=int, default=[512, 1024] if cuda else [256])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 8] if cuda else [1, 4])
    parser.add_argument("--precisions", nargs="+", choices=LEVELS, default=list(LEVELS) if cuda else [UNQUANTIZED])
    parser.add_argument("--compilers", nargs="+", choices=("no", "inductor"), default=["no", "inductor"])
    parser.add_argument("--intervals", nargs="+", type=int, default=[1], help="of checkpointing; 0: none")
    parser.add_argument("--offload-blocks", type=int, default=0, help="for LoRAs")
    parser.add_argument("--mixed-precision", choices=("no", "bf16"))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int)
    return parser.parse_args()


def asked_for(said: argparse.Namespace) -> Iterator[Case]:
    """The cases that the arguments name; only a LoRA's base is quantized or offloaded."""
    for model, kind, pixels, batch in itertools.product(said.models, said.kinds, said.pixels, said.batches):
        is_lora = kind == "lora"
        levels = said.precisions if is_lora else [UNQUANTIZED]
        for level, compiler, interval in itertools.product(levels, said.compilers, said.intervals):
            yield Case(
                model=model,
                kind=kind,
                pixels=pixels,
                batch=batch,
                precision=level,
                compiler=compiler,
                interval=interval,
                offload=said.offload_blocks if is_lora else 0,
            )


def main() -> None:
    said = arguments()
    runtime = open_runtime(
        PrecisionOptions(mixed_precision=said.mixed_precision), RunOptions(torch_num_threads=said.threads)
    )
    device = runtime.device
    dtype = torch.bfloat16 if runtime.precision.mixed_precision == "bf16" else torch.float32
    peak = products_per_second(device, dtype)
    print(f"{device.type}, {dtype}: {peak / 1e12:.2f} Tflop/s in matrix products; medians of {said.steps} steps")
    titles = f"{'s/step':>8} {'pict/s':>9} {'peak':>6} {'GB':>8} {'x plain':>8}"
    print(f"{'model':<12} {'kind':<5} {'px':>5} {'B':>3} {'':<31} {titles}")
    results: list[Result] = []
    cases = cases_of_aims() if said.aims else asked_for(said)
    for _, alike in itertools.groupby(cases, key=lambda case: (case.model, case.kind, case.pixels, case.batch)):
        results += compare(list(alike), runtime, steps=said.steps, peak=peak)
    if device.type == "cuda":
        print("\n".join(aim.verdict(results) for aim in aims()))
    else:
        print("The aims are of a GPU; there is none here.")


if __name__ == "__main__":
    main()
