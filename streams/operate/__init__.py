"""What operators and producers ask: status, verify, dead letters, outputs on demand."""
