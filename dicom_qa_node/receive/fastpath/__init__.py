"""The receiver's own P-DATA path: C-STORE data sets go from the socket to the spool as they arrive."""
