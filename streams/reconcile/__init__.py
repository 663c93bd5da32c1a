"""What is missing, stale or may be retried is published again, and copies, below live traffic.

It knows documents and how far they are, and is told which versions serve. It does not know the
change stream, nor what a model computes. It works while the publisher holds its lease.
"""
