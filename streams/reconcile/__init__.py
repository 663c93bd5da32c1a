"""Documents whose outputs are missing or stale are published again, below live traffic."""
