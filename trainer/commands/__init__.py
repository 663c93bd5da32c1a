"""The commands of `captionstream-trainer`, one module for each subject."""
