"""Attention kernels, torch.compile, and offloading."""
