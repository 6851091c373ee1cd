"""Helpers for every other folder: validation, Keras compatibility, devices, files and seeds.

This file re-exports nothing, because the serving client uses `validation` without TensorFlow.
"""
