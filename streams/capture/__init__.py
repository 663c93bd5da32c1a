"""From MongoDB to Kafka, at least once and in order: the path of a change.

    `publisher`      wins the lease and leads for a term, again and again
    `term`           reads, sends, commits; begins copies; ends with the lease
    `change_stream`  what the server is asked for, and what a change means
    `sender`         what was sent, and the position up to which all of it has arrived

The position is kept in `mongo/leadership.py`, in the document of the lease. `copies` says when
everything has to be copied because Kafka lost its log; `process` runs the publisher, with the
reconciler beside it in a thread. The room reads no image, and knows no stage and no consumer.
"""
