"""The C-STORE and C-ECHO SCP: from an association to durable bytes, Success, and rows in the registry.

`server` forks receiver processes on one listening socket; `application_entity` negotiates; `admission` accepts or
rejects associations; `receive_path` chooses the P-DATA path: `fastpath`, or pynetdicom's own (`fallback`);
`store_handler` writes them to the spool; `ingest_writer` records them; `reconcile` adds to the registry what a crash
kept from it.
"""
