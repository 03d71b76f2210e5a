"""The terminal and the log file."""
