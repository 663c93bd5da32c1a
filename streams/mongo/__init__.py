"""Connections to MongoDB, the watched collection, and the state that processes share.

That state: the lease and position of the publisher, the reports of all processes, the index of
states. It knows documents and their outputs, but no topic, and not what a model computes. Versions
of models, in MongoDB as well, are the matter of `registry`.
"""
