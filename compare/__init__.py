"""A client of the contract that puts the transports side by side."""
