"""From a snapshot to fitted weights."""
