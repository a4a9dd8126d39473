"""CONTINUER: a deep network over small boxes that keeps answering when a box dies.

The package holds what both daemons share, the command line and the Python client. The
client is ``continuer.Client`` and ``continuer.AsyncClient``.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Answer", "AsyncClient", "Client", "RequestError", "__version__"]

if TYPE_CHECKING:
    from continuer.client import Answer, AsyncClient, Client
    from continuer.errors import RequestError


def __getattr__(name: str) -> Any:
    """Import the client when it is asked for: the daemons never need it."""
    if name in ("Answer", "AsyncClient", "Client"):
        from continuer import client

        return getattr(client, name)
    if name == "RequestError":
        from continuer.errors import RequestError

        return RequestError
    raise AttributeError(f"module 'continuer' has no attribute {name!r}")
