from service.backends.hints import salt, salt_number, session


def test_a_salt_is_the_same_on_every_replica_and_after_every_restart() -> None:
    assert salt("ann") == "b506b10084e3e1898f33060528c9b39a"


def test_tenants_and_conversations_are_told_apart() -> None:
    assert len({salt("ann"), salt("bob"), session("ann"), session("bob")}) == 4
    assert salt_number("ann") != salt_number("bob")


def test_a_number_is_one_that_protobuf_can_hold() -> None:
    assert 0 <= salt_number("ann") < 2**63
