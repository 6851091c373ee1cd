"""Training: the loop, the train step, optimizers, schedules, recipe checks, the dry run."""
