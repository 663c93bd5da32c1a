"""What documents, events, records and versions are, and which output is good enough. Pure."""
