"""Parameter servers: who waits for whom, how stale gradients are, and what that takes in time."""
