"""The API under ``/api/v1``: the data and actions of the pages, for programs."""
