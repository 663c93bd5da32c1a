"""From MongoDB to Kafka: the path of a change.

    change stream (`pipeline`, `change_stream`) -> window of unacknowledged sends (`window`,
    `producer`) -> position, committed under a lease (`leadership`) -> and again (`term`)

`publisher` wins the lease and begins a term, again and again.

Beside it, in one thread and below live traffic (`repeats`): what no change tells of is copied
(`copy`) unless it is `finished`; what is missing or stale is published again (`reconciler`).
"""
