"""One tenant tries to learn of another's things: by guessing, and by timing. `python -m tests.probes`."""
