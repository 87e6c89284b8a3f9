"""What things are called in the servers: nothing that a client or an operator chose can be read there.

All keys of a tenant begin alike, so that they can be found and erased together.
"""

import base64
import hashlib

from service.store import CellName

_PREFIX = "tw:1:"
_BYTES = 18


def tree_key(tenant: str, root: str) -> str:
    """Return the key of a conversation's tree. Trees of a tenant are spread over all slots."""
    return f"{_PREFIX}{{{_hidden(tenant)}:{_hidden(root)}}}"


def cell_key(name: CellName) -> str:
    """Return the key of a cell."""
    return f"{_PREFIX}{{{_hidden(name.tenant)}:{name.kind}:{_hidden(name.name)}}}"


def quota_key(tenant: str) -> str:
    """Return the key of what a tenant put lately."""
    return f"{_PREFIX}{{{_hidden(tenant)}}}"


def _hidden(text: str) -> str:
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
    return base64.urlsafe_b64encode(digest[:_BYTES]).decode()
