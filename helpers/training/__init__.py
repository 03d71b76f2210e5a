"""A training run: phases, preparation, step, loop, optimizers, checkpoints with export, validation."""
