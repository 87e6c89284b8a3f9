import pytest

from service.loopback import is_loopback


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1"])
def test_this_machine_is_known_by_its_names(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "10.0.0.1", "localhost.example", "[::1]", "127.0.0.1:80"]
)
def test_whatever_else_there_is_is_elsewhere(host: str) -> None:
    assert not is_loopback(host)
