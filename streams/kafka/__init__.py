"""Everything that talks to Kafka: clients, topics, the producer, offsets; Faust in `kafka/faust`.

It knows records, topics and positions. It does not know what MongoDB holds or a stage computes: a
consumer hands its batches to the handler that it is given.
"""
