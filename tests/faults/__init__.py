"""What clients do at random, under faults, and what must hold all the same."""
