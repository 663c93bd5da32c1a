"""Retraining as a job: one at a time, with a gate, decisions and metrics.

Knows the registry and puts the other rooms together. Does not know how a fit or a metric works.
"""
