"""Collects what datasets.html and the wizard show about a dataset."""
