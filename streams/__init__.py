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

Each stage is one process around one loop (`stages/stage.py`): take a batch, run a pure step, wait
until the broker has the results, then acknowledge. What cannot succeed goes to `<topic>.dlq` and
into the document. A reconciler beside the publisher finds documents whose outputs are missing or
made by another model version and publishes them again: the database is the truth, the log can be
rebuilt from it. Read on in `documents.py`, `events.py`, `stages/stage.py`, `stages/featurize.py`.
"""
