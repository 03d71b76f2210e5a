"""Scripts for those who work on the program; nothing that a run needs."""
