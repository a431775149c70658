"""The database: engine, tables, schema revisions, heartbeats; the packages above hold what is done with it."""
