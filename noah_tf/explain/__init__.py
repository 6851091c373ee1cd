"""Where a model looks: attention and contribution maps, overlays, and how well the maps localize objects."""
