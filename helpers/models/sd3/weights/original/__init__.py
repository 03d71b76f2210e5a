"""The original layout, as Stability AI and ComfyUI name tensors: read and written."""
