"""Bytes by name, somewhere: sources that are only read, and folders that caches live in."""
