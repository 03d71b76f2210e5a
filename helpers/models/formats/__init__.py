"""File formats of weights: safetensors, LoRA, LyCORIS, ModelSpec."""
