"""Validation images and validation loss."""
