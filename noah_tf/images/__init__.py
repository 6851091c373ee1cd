"""Images: decoding, resizing, cropping, normalization and augmentation, defined once for training, evaluation and export."""
