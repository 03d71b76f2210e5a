"""What exists to train on: images, their sizes and captions, and how each will be cut."""
