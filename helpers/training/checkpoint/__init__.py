"""Checkpoints: writing, resuming, and exporting weights."""
