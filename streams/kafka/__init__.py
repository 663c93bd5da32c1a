"""Everything that talks to Kafka. It knows topics, records and offsets, and no document."""
