"""Training: the loop, the train step, optimizers, schedules, recipe checks, and the dry run."""
