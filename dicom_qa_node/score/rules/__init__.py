"""The rules behind the findings, one file per kind of study; each rule is a function of one case."""
