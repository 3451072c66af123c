"""Teaching: exercises that are checked at once, predictions locked before the result, claims computed, progress, reset.

The public names are `lk.exercise`, `lk.check`, `lk.predict`, `lk.claim`, `lk.progress` and `lk.reset`.
"""
