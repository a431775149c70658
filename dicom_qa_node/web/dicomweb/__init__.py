"""DICOMweb (PS3.18): reports, and images if `query.images` is set, for those who may see patients.

`routes` guards the addresses; `searching` answers QIDO-RS; `retrieving` WADO-RS; `media` reads what a client accepts.
"""
