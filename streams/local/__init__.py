"""Everything on one machine: a real mongod, a Kafka-compatible broker, and a supervisor.

For trials, development and tests. In production the same processes run against a MongoDB replica
set and Apache Kafka, by two addresses.
"""
