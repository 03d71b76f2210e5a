"""The run itself: engine, state, step, loop, checkpoints, validation, export."""
