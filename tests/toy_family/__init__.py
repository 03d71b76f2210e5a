"""A second family of models, small enough to read: its own folder layout, denoiser, VAE and text encoder."""
