"""Figures, not verdicts: run them by hand, on a quiet machine, and compare ratios."""
