"""Keeps the node running: the roles, their supervisor, the periodic tasks, health, metrics and backup.

`roles` runs one role in this process; `supervisor` runs all of them as child processes and restarts what dies;
`pulse` says that a process is alive; `schedule` holds the periodic tasks; `health` and `metrics` tell others.
"""
