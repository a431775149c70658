"""The quality log: every scored version of every series, searched, reviewed and exported."""
