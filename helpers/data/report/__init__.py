"""What datasets.html and the wizard show of a dataset."""
