"""Pieces of the pipeline inside a test's own process, as the integration tests have them."""

from tests.integration.conftest import broker, client, documents, published

__all__ = ["broker", "client", "documents", "published"]
