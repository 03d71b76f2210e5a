"""SimpleTuner's parts, in layers: see documentation/ARCHITECTURE.md."""

__version__ = "0.1.0"
