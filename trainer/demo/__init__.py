"""`make demo`: from nothing to captions on one machine, with plain pymongo and the two programs.

Nothing here reaches into the system: it starts `captionstream up`, inserts documents as any
producer does, runs `captionstream-trainer run`, and reads what lands in the documents.
"""
