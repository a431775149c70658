"""The flow of series through the node: registry, states, jobs, outbox, completion, retention."""
