"""Operation: roles and their supervisor, scheduler, health, metrics, retention, backup and rebuild.

`roles` runs one role in this process; `supervisor` runs all of them as child processes and restarts those that end or
hang; `heartbeat` records that a process is alive; `scheduler` holds the periodic tasks; `health` and `metrics` report.
"""
