"""The contract of Turnwire: its messages, and their form in the Responses JSON dialect."""
