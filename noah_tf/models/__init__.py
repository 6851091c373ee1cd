"""Models: the head on a backbone, the architectures of the paper, the authors' checkpoints."""
