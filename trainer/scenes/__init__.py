"""Generated scenes: what they show, how a caption is judged, and the tiny CLIP that sees them."""
