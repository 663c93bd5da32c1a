"""The commands of `captionstream-trainer`, one module for each subject.

Arguments in, lines and exit codes out; what a command does stands in the other rooms.
"""
