"""`make demo`: from nothing to captions on one machine, with plain pymongo and the two programs.

It starts `captionstream up`, inserts documents as any producer does, runs `captionstream-trainer
run`, and reads what lands in the documents. It knows no topic and no stage.
"""
