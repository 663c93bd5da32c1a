"""Retraining as a job: one at a time, with a gate, decisions and metrics."""
