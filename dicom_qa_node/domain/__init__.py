"""What the stages exchange: frozen dataclasses, states, codes, UIDs and errors; no library but pydantic."""
