"""The commands of `captionstream`."""
