"""What a training run is: its recipe, its folder, its checkpoints, and the model built from its configuration."""
