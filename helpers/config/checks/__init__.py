"""Checks of the whole configuration, before any model is loaded."""
