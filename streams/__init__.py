"""Captionstream: insert an image into MongoDB, get a caption back.

    producer --insert/update--> MongoDB --change stream--> publisher
                                   ^                           |
                                   |                      topic `changes`
                                   |                           v
                                   |                         clip ------------- image encoder
                                   |                       topic `clip`
                                   |                           v
                                   |                    clip_projection ------- linear projection
                                   |                  topic `clip_projection`
                                   |                           v
                                   |                    conditional_lm -------- GRU language model
                                   |                  topic `conditional_lm`
                                   |                           v
                                   +--- guarded writes ----- sink <--- topics of all models,
                                                                       dead letters

That is the default pipeline. Which models there are is declared, and kept in MongoDB; each is a
stage, and its outputs go to the topic of its name.

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
`contract/events.py`, `capture/term.py`, `stages/stage.py`, `stages/sink.py` and
`registry/serving.py`. `trainer` is a package of its own.
"""
