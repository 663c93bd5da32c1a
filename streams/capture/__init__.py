"""From MongoDB to Kafka: the path of a change.

    change stream (`pipeline`, `change_stream`) -> window of unacknowledged sends (`window`,
    `producer`) -> position, committed under a lease (`leadership`) -> and again (`term`)

`publisher` wins the lease and begins a term, again and again.

What was there before the first start is copied (`copy`); what is missing or stale is published
again (`reconciler`).
"""
