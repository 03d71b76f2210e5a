"""What is published: the model card, its license, and uploads to the hub."""
