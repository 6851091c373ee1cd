"""What `trainers/evaluate.py` does: scores, corrupted copies, reports, paired differences."""
