"""What an operator can do about servers that cannot be used. It shows nothing of their URL."""

from valkey.exceptions import MovedError, NoPermissionError, OutOfMemoryError, ReadOnlyError

from service.store.valkey.node import Away, Unwelcome

_ADVICE: dict[type, str] = {
    Away: "No server answers as it should at the address in TURNWIRE_STORE_URL: does it run, "
    "is TLS as the scheme says, is it a cluster if the scheme says so?",
    Unwelcome: "The server refuses the user or the password in TURNWIRE_STORE_URL.",
    NoPermissionError: "The user in TURNWIRE_STORE_URL may do too little: docs/valkey.md has its ACL.",
    ReadOnlyError: "The server in TURNWIRE_STORE_URL is a replica: name the primary.",
    MovedError: "The server in TURNWIRE_STORE_URL is part of a cluster: write valkey+cluster://.",
    OutOfMemoryError: "The server has no memory left: raise its maxmemory.",
}
_OTHER_ADVICE = "The server cannot be used: it must be Valkey 8 or newer, or Redis 7 or newer."


def advice(failure: BaseException | None) -> str:
    """Say what the operator can do about it."""
    return _ADVICE.get(type(failure), _OTHER_ADVICE)
