"""Carries reports to their targets and tries again until each has them."""
