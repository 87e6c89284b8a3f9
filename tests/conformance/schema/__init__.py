"""The protocol's fields as data, and the check of a JSON object against them.

`openresponses.toml` is the published schema's field list, written by `derive.py`; `ours.toml` adds
what that list leaves out: the events, items and members that clients know all the same.
"""
