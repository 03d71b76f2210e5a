"""configure.py's questions, and the files that its answers make."""
