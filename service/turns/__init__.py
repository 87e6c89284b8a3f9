"""The life of a turn: what it is to do, who makes it, what it tells, and what is left of it."""
