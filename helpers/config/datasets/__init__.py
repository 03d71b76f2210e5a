"""The dataset file: its types, entries and checks."""
