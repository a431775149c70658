"""Dose of CT series: dose reports read by their codes, and linked to the series they belong to."""
