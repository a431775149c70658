"""The C-STORE and C-ECHO SCP: from a peer's association to durable bytes, Success, and rows that follow.

`run` pre-forks receiver processes on one socket; `ae` builds the server of each; `admit` decides about
associations; `fastpath` takes data sets straight from the socket; `store_scp` puts them into the spool;
`recorder` hands receipts to the registry; `reconcile` gives it what a crash kept from it.
"""
