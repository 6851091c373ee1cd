"""Images: decode, resize, crop, normalize and augment, defined once for every use."""
