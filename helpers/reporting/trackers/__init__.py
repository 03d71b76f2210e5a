"""Experiment trackers: TensorBoard and Weights & Biases, each imported only if it is used."""
