"""What operators and producers ask: status, verify, dead letters, outputs on demand, commands.

It may look into every room of the running system; none of them knows it. It writes no output: what
is to be made again goes through the pipeline.
"""
