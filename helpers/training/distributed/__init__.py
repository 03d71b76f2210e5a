"""More than one process: accelerate, and tensors in shards."""
