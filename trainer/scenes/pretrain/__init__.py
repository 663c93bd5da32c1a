"""Pretraining of the project's own small CLIP, on generated scenes. Runs once; its result ships.

    scenes -> pictures, captions, wrong captions, attributes   (batches)
           -> contrastive loss beside readable attributes      (objective)
           -> an open_clip model as fp16 safetensors            (export)

Beside what CLIP learns from, captions, the encoder is told the attributes of every scene, through
linear heads that are thrown away: see `attributes`. Nothing here is needed to run the pipeline.
"""
