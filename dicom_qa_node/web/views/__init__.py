"""The pages, one file per area; each has ``routes(site)``."""
