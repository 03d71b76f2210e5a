"""Training data: images, their sizes, captions and crops."""
