"""From MongoDB to Kafka, at least once and in order: the path of a change.

    change stream (`pipeline`, `change_stream`) -> window of unacknowledged sends (`sender`,
    `window`) -> position, committed under a lease (`term`), and again

`publisher` wins the lease and begins a term, again and again; `process` runs it, with the
reconciler beside it in a thread. It reads no image, and knows no stage and no consumer.
"""
