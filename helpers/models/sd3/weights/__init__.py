"""SD3's weights on disk: diffusers folders, original single files, ComfyUI's names."""
