"""The order of the samples, and the batches of tensors made of them."""
