"""What is trained: LoRA, DoRA, LyCORIS, or the whole model."""
