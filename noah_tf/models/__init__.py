"""Models: attaching the head to a backbone, the architectures of the paper, and the authors' checkpoints."""
