"""The node's own HTTP pages; what they show is handed in, so that nothing here knows where it comes from."""
