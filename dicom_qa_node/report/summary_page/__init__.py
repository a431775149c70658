"""The one-page summary of a report, for Secondary Capture and Encapsulated PDF."""
