"""Habits of the command line: how much is said, flags read with suggestions, errors in a line, versions."""
