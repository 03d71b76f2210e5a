"""Decoding, resizing and cropping one image."""
