"""What faust-streaming and aiokafka need to be told; nothing else imports them.

It knows batches of records and when they may be acknowledged, and no stage: a handler is given.
"""
