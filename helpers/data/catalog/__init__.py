"""Which images there are, and how each is cropped."""
