"""The statements of the initial revision: its tables by what they serve, and its triggers."""
