"""Everything on one machine: a real mongod, a Kafka-compatible broker, and a supervisor.

For trials, development and tests. It knows programs, ports, processes and how they are, but not
what they compute. In production the same processes run against servers given by two addresses.
"""
