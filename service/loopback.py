"""What this machine is called: what cannot be reached from another one, and need not be hidden from it."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Tell whether a host, without brackets and port, is this machine. No name is looked up."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
