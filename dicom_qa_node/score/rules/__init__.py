"""Rules that turn measurements and headers into findings, by modality; each rule is a function of one case."""
