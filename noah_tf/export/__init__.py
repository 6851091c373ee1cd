"""SavedModel exports for TF Serving: signatures, versions, warm-up, variants, the model card."""
