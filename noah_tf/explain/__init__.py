"""Where a model looks: attention and contribution maps, their pictures and their quality."""
