"""Helpers that every other folder may use: argument validation, Keras compatibility, devices, files."""
