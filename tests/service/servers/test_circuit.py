"""Health from what happened."""

from hypothesis import given
from hypothesis import strategies as st

from service.servers.circuit import Circuit, Health


def up(failures: int = 3) -> Circuit:
    circuit = Circuit(failures)
    circuit.well()
    circuit.answered()
    return circuit


def test_a_server_that_was_never_met_is_down() -> None:
    assert Circuit(3).health is Health.DOWN


def test_so_many_failures_in_a_row_take_it_down() -> None:
    circuit = up(3)
    for _ in range(2):
        circuit.failed()
        circuit.failed()
        assert circuit.health is Health.UP
        circuit.answered()
    for _ in range(3):
        circuit.failed()
    assert circuit.health is Health.DOWN


def test_what_is_well_again_is_on_trial_until_it_answers() -> None:
    circuit = up(1)
    circuit.failed()
    seen = []
    for happens in (circuit.well, circuit.well, circuit.answered):
        happens()
        seen.append(circuit.health)
    assert seen == [Health.TRIAL, Health.TRIAL, Health.UP]


def test_on_trial_one_failure_is_enough() -> None:
    circuit = up(5)
    for _ in range(5):
        circuit.failed()
    circuit.well()
    circuit.failed()
    assert circuit.health is Health.DOWN


def test_a_turn_that_began_before_brings_no_server_up() -> None:
    circuit = up(1)
    circuit.failed()
    circuit.answered()
    assert circuit.health is Health.DOWN


@given(st.lists(st.sampled_from(["well", "answered", "failed"])))
def test_whatever_happened_health_and_then_an_answer_bring_it_up(told: list[str]) -> None:
    circuit = Circuit(3)
    for what in told:
        getattr(circuit, what)()
    circuit.well()
    circuit.answered()
    assert circuit.health is Health.UP
