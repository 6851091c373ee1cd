"""A training run: its recipe, its folder, its checkpoints, the model built from its config."""
