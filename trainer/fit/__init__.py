"""From a snapshot to fitted weights: one loop, and plugs for each model.

Reads and writes files. Knows neither MongoDB nor Kafka, and not which version serves.
"""
