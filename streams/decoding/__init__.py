"""Images are decoded in processes of their own, since hostile bytes can kill or hang a decoder.

`pool` is what a stage calls, `worker` is what runs in each process; neither loads torch.
"""
