"""What has been encoded: content-addressed latents and text embeddings in sharded files."""
