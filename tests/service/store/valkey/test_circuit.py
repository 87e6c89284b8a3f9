from service.store.valkey.circuit import Circuit


def test_only_failures_in_a_row_open_it() -> None:
    circuit = Circuit(failures=3)
    for _ in range(2):
        circuit.failed(0.0)
    circuit.succeeded()
    for _ in range(2):
        circuit.failed(0.0)
    assert not circuit.open
    circuit.failed(0.0)
    assert circuit.open


def test_one_trial_at_a_time_is_let_through_while_it_is_open() -> None:
    circuit = Circuit(failures=1, pause=1.0)
    circuit.failed(10.0)
    assert [circuit.allows(now) for now in (10.5, 11.0, 11.5, 12.0)] == [False, True, False, True]


def test_a_trial_that_succeeds_closes_it() -> None:
    circuit = Circuit(failures=1)
    circuit.failed(0.0)
    assert circuit.allows(5.0)
    circuit.succeeded()
    assert circuit.allows(5.0)
    assert not circuit.open


def test_a_trial_that_fails_is_not_repeated_at_once() -> None:
    circuit = Circuit(failures=1, pause=1.0)
    circuit.failed(0.0)
    assert circuit.allows(1.0)
    circuit.failed(1.9)
    assert not circuit.allows(2.5)
    assert circuit.allows(2.9)
