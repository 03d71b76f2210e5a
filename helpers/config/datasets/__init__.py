"""The dataset file: its types, its entries and their checks."""
