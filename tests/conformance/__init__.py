"""One suite over every transport: whatever one can say, the others can.

Tests name no transport. The in-process row is the reference; what only one wire can show is in
`tests/transports`. No test sleeps to wait, and every wait is bounded.
"""
