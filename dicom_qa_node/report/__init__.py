"""Makes the Structured Report of a scored series: codes, content items, document, durable file."""
