"""SavedModel exports for TF Serving: signatures, versions, warm-up requests, other formats, and the model card."""
