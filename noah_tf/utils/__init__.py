"""Helpers for every other folder: validation, Keras compatibility, devices and files."""
