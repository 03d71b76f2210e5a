"""SimpleTuner's parts, in layers: see documentation/ARCHITECTURE.md."""
