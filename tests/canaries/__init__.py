"""Canaries: random texts that clients say in every place there is, looked for in every sink there is.

`python -m tests.canaries` runs it all and prints what was searched and what was found.
"""
