"""The statements of revision 0101 by what they serve; each part has ``create`` and ``drop``."""
