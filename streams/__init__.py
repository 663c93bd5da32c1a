"""Captionstream: insert an image into MongoDB, get a caption back.

    producer --insert/update--> MongoDB --change stream--> publisher
                                   ^                           |
                                   |              captions.image.changed.v1
                                   |                           v
                                   |                       featurize ---- CLIP
                                   |              captions.image.featurized.v1
                                   |                           v
                                   |                        project ----- linear projection
                                   |              captions.image.projected.v1
                                   |                           v
                                   |                        caption ----- GRU language model
                                   |              captions.caption.generated.v1
                                   |                           v
                                   +--- guarded writes ----- sink <------ featurized, projected,
                                                                          dead letters

The database is the truth, the log can be rebuilt from it. The rooms, in the order to read them:

    contract    what documents, events, versions and the pipeline are, and who may overwrite what
    capture     from the change stream to Kafka, at least once, in order
    stages      one loop for all stages, and what each of them computes
    images      from `img` to pixels: fetched, decoded in processes of their own, within limits
    models      image encoder, projection, captioner: pure torch
    registry    versions of models, which one serves, and how a running process takes it up
    reconcile   what is missing or stale is published again, below live traffic
    mongo       connections to MongoDB, documents, leases, positions, reports
    kafka       everything that talks to Kafka: topics, producer, offsets; Faust in `kafka/faust`
    operate     status, verify, dead letters, and the commands
    local       real servers and all processes on one machine

Beside them: `errors`, `settings`, `metrics`, `logs`, `endpoints`, `backoff`, `following` (done
again and again in a thread), `app` (puts one process together) and `cli`. Begin with
`contract/events.py`, `stages/stage.py`, `stages/featurize.py` and `stages/sink.py`. `trainer` is a
package of its own.
"""
