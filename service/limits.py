"""The bounds of connections and turns, in bytes and seconds."""

from dataclasses import dataclass

MIB = 1024 * 1024
PATIENCE = 4
"""Times `outbound_bytes`: a client with more than this unsent is not waited for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one connection may cost, and how long anything may wait."""

    message_bytes: int = 64 * MIB
    """The largest message from a client; clients send whole contexts in one."""
    outbound_bytes: int = 4 * MIB
    """Unsent bytes of one connection beyond which its model servers are held back."""
    send_deadline: float = 10.0
    """How long a client may leave unsent bytes unread before it is cut off."""
    receive_deadline: float = 30.0
    """How long one message may take to arrive."""
    handshake_deadline: float = 5.0
    """How long a connection may take to say what it wants."""
    ping_interval: float = 20.0
    """How long a connection may be silent before it is asked for a sign of life."""
    ping_timeout: float = 20.0
    """How long that sign of life may take."""
    allowed_origins: tuple[str, ...] = ()
    """Browser origins that may connect. Others are refused; clients that are no browsers send none."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that a server without keys may be called by, beside this machine's own: a web page can
    make a browser believe that any name of its own is this machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnLimits:
    """What a turn puts up with, in seconds and bytes."""

    keepalive: float = 30.0
    """After this long a silence of the model server the client is told that its turn still runs."""
    stall: float = 600.0
    """After this long a silence of the model server the turn fails."""
    conversation_bytes: int = 64 * MIB
    """The longest conversation, in bytes of its items."""
