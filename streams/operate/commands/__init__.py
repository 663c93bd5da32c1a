"""The commands of `captionstream`: arguments in, lines and exit codes out.

What takes more than that stands in the modules above.
"""
