"""Finds a dataset's images and determines how each is cropped."""
