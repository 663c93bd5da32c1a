"""The offline half: fits model versions on a snapshot and publishes them. Needs no broker."""
