"""Formats numbers for people, so that no message shows 0.00027777 or 1073741824."""

MINUTE, HOUR, DAY = 60, 3600, 86400


def format_duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 05 s`, `2 h 07 min`, `3 d 04 h`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    rounded = round(seconds)
    if rounded < MINUTE:
        return f"{rounded} s"
    if rounded < HOUR:
        return f"{rounded // MINUTE} min {rounded % MINUTE:02} s"
    minutes = round(seconds / MINUTE)
    if minutes * MINUTE < DAY:
        return f"{minutes // MINUTE} h {minutes % MINUTE:02} min"
    hours = round(seconds / HOUR)
    return f"{hours // 24} d {hours % 24:02} h"


def format_bytes(size_bytes: int) -> str:
    """`812 MB`, `1.24 GB`, `23.6 GB`, in powers of ten."""
    megabytes = size_bytes / 1e6
    return f"{megabytes:.0f} MB" if megabytes < 999.5 else f"{megabytes / 1000:.3g} GB"


def format_rate(per_second: float, unit: str) -> str:
    """`20.1 images/s`; per minute or per hour where it is less than 1 per second."""
    for seconds, name in ((1, "s"), (MINUTE, "min")):
        if per_second * seconds >= 1:
            return f"{format_number(per_second * seconds)} {unit}/{name}"
    return f"{format_number(per_second * HOUR)} {unit}/h"


def format_number(value: float) -> str:
    """Three significant digits, or a whole number: `0.0123`, `12.3`, `12,345`, `1e-05`."""
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def format_count(number: int, unit: str) -> str:
    """`120 images`, and `1 image`; `unit` is a plural that ends in s."""
    return f"{number:,} {unit.removesuffix('s') if number == 1 else unit}"


def format_amount(done: int, total: int, unit: str) -> str:
    """`120 of 256 images (46 %)`, or `120 images` if the total is not known (0)."""
    return f"{done:,} of {total:,} {unit} ({100 * done // total} %)" if total else f"{done:,} {unit}"
