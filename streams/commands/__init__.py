"""The commands of `captionstream`, by topic. `cli.py` puts them together."""
