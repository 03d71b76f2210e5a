"""Caches of latents and text embeddings: content-addressed entries in sharded files."""
