"""What the loop eats: which samples come when, and the tensors they become."""
