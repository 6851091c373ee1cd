"""Data sets: `sources` opens them, `pipeline` makes batches, `digit_scenes` is made here."""
