"""From config.env to the arguments of train.py, and the processes that run it."""
