"""Generated scenes: what they show, how a caption is judged, and the tiny CLIP that sees them.

Knows pictures, words and how both stand in a document. Knows no server and no captioner.
"""
