"""The offline half of Captionstream: fits model versions and lets the better ones serve.

    documents --one clusterTime--> snapshot (Parquet)      validation set (frozen, in MongoDB)
                                      |                          |
                                     fit --bundle--> evaluate <--+
                                                        |
                                                        v
                        registry <--pointer moved-- publish (only if better)

The fold `train` is learned from, `valid` chooses the epoch, and `test` is all that the validation
set is drawn from; no snapshot holds it. `run` does all of it, one job at a time (`job/job.py`). A
fit is one loop (`fit/fitting.py`) and five plugs for each model (`fit/plugs.py`,
`fit/captioner.py`, `fit/projector.py`). It reads stored CLIP vectors, never images, and needs
MongoDB, but no broker: neither Faust nor a Kafka client is ever loaded.
"""
