"""The names and values of the metrics that all trackers and the run page receive."""

from helpers.reporting.events import StepFinished

GIGABYTE = 1e9


def step_metrics(step: StepFinished) -> dict[str, float]:
    """The metrics of a step by name, without those that were not measured, such as VRAM on a CPU."""
    found = {
        "train/loss": step.loss,
        "train/learning_rate": step.learning_rate,
        "train/gradient_norm": step.gradient_norm,
        "train/epoch": float(step.epoch),
    }
    for part in step.by_sigma:
        found[f"loss_by_sigma/{part.low:.2f}-{part.high:.2f}"] = part.loss
        found[f"samples_by_sigma/{part.low:.2f}-{part.high:.2f}"] = float(part.samples)
    samples = sum(part.samples for part in step.by_sigma)
    if samples:
        found["train/mean_sigma"] = sum(part.sigma * part.samples for part in step.by_sigma) / samples
    if step.seconds > 0:
        found["speed/images_per_second"] = step.images / step.seconds
        found["speed/seconds_per_step"] = step.seconds
    memory = step.memory
    measured = {
        "peak": memory.peak_bytes,
        "device": memory.device_bytes,
        "device_peak": memory.peak_device_bytes,
        "device_reserved_peak": memory.peak_reserved_bytes,
    }
    return found | {f"memory/{name}_gb": size / GIGABYTE for name, size in measured.items() if size}
