"""The head: the Keras layer, its mathematics (POCA), its gradients and its inference form."""
