import itertools

import pytest

from compare.agent import (
    Agent,
    AgentFailed,
    Asked,
    Called,
    Observation,
    Returned,
    Said,
    Step,
    TurnEnded,
)
from compare.clients import Disconnected
from compare.tools import Tool
from tests.compare.scripted import ScriptedClient, answer, called
from turnwire.v1 import events_pb2, responses_pb2

ECHO = Tool("echo", "Says it again.", "word", ["hello"], str.upper)
SETTINGS = responses_pb2.Settings(model="tiny", instructions="Be brief.", store=False)


def agent_of(client: ScriptedClient, seen: list[Observation]) -> Agent:
    clock = itertools.count()
    return Agent(client, SETTINGS, [ECHO], seen.append, lambda: float(next(clock)))


def ending(**kinds: events_pb2.ResponseEvent | events_pb2.ErrorEvent) -> events_pb2.ServerEvent:
    return events_pb2.ServerEvent(**kinds)  # type: ignore[arg-type]


async def test_a_forced_tool_is_called_run_and_then_answered_in_words() -> None:
    client, seen = ScriptedClient(), list[Observation]()
    await agent_of(client, seen).run([Step("Say hello.", tool="echo")])
    told = [thing for thing in seen if not isinstance(thing, TurnEnded)]
    assert told == [
        Asked("Say hello."),
        Called("echo", '{"word": "hello"}'),
        Returned("HELLO"),
        Said("two"),
        Said(" words"),
    ]
    first, second = client.requests
    assert first.settings.tool_choice.function.name == "echo"
    assert second.settings.tool_choice_mode == "none"
    assert not second.settings.HasField("tool_choice")
    assert second.input[0].function_call_output.call_id == "call_echo"


async def test_every_turn_carries_only_what_is_new_and_names_the_turn_before() -> None:
    client = ScriptedClient()
    await agent_of(client, []).run([Step("One.", tool="echo"), Step("Two."), Step("Three.")])
    assert [len(request.input) for request in client.requests] == [1, 1, 1, 1]
    assert not client.requests[0].settings.HasField("previous_response_id")
    continued = [request.settings.previous_response_id for request in client.requests[1:]]
    assert continued == ["resp_0", "resp_1", "resp_2"]
    for request in client.requests:
        assert request.settings.instructions == "Be brief."
        assert [tool.function.name for tool in request.settings.tools] == ["echo"]


async def test_a_model_that_may_choose_is_left_the_choice_until_it_answers() -> None:
    response = responses_pb2.Response(id="resp_0", output=[called("echo"), called("echo")])
    calls = [ending(completed=events_pb2.ResponseEvent(response=response))]
    client = ScriptedClient(calls)
    await agent_of(client, []).run([Step("Say hello.")])
    assert [r.settings.tool_choice_mode for r in client.requests] == ["auto", "auto"]
    assert len(client.requests[1].input) == 2


async def test_a_tool_that_does_not_exist_is_an_error_for_the_model_to_read() -> None:
    response = responses_pb2.Response(id="resp_0", output=[called("fly")])
    client = ScriptedClient([ending(completed=events_pb2.ResponseEvent(response=response))])
    seen: list[Observation] = []
    await agent_of(client, seen).run([Step("Fly.")])
    assert Returned("error: there is no tool 'fly'") in seen


async def test_the_first_delta_of_any_kind_counts_as_the_first_token() -> None:
    client = ScriptedClient()
    agent = agent_of(client, [])
    await agent.run([Step("Say hello.", tool="echo")])
    assert [(turn.first_delta, turn.seconds) for turn in agent.turns] == [(1.0, 2.0), (1.0, 2.0)]


async def test_a_turn_without_deltas_has_its_end_as_its_first_token() -> None:
    response = responses_pb2.Response(id="resp_0")
    client = ScriptedClient([ending(incomplete=events_pb2.ResponseEvent(response=response))])
    agent = agent_of(client, [])
    await agent.run([Step("Say nothing.")])
    assert agent.turns[0].first_delta == 1.0


async def test_figures_tell_what_was_sent_and_what_a_replay_would_have_sent() -> None:
    client = ScriptedClient()
    agent = agent_of(client, [])
    await agent.run([Step("Say hello.", tool="echo"), Step("Thank you.")])
    first, *_, last = agent.turns
    assert sum(turn.bytes_sent for turn in agent.turns) == client.bytes_sent
    assert first.replay_bytes == first.bytes_sent
    assert last.replay_bytes > last.bytes_sent
    assert (last.input_tokens, last.cached_tokens) == (30, 20)


async def test_a_replay_is_the_request_with_the_whole_conversation_in_it() -> None:
    client = ScriptedClient()
    agent = agent_of(client, [])
    await agent.run([Step("One."), Step("Two.")])
    first, second = client.requests
    replay = responses_pb2.CreateResponse()
    replay.CopyFrom(second)
    replay.settings.ClearField("previous_response_id")
    replay.ClearField("input")
    replay.input.extend(first.input)
    replay.input.extend(answer(first, 0)[-1].completed.response.output)
    replay.input.extend(second.input)
    assert agent.turns[1].replay_bytes == client.size_of(events_pb2.ClientEvent(create=replay))


async def test_a_failed_turn_ends_the_task_in_the_servers_words() -> None:
    error = responses_pb2.ResponseError(code="server_error", message="The model is gone.")
    failed = events_pb2.ResponseEvent(response=responses_pb2.Response(id="r", error=error))
    with pytest.raises(AgentFailed, match=r"The model is gone\. \(server_error\)"):
        await agent_of(ScriptedClient([ending(failed=failed)]), []).run([Step("Hello.")])


async def test_a_refused_request_ends_the_task_in_the_servers_words() -> None:
    detail = events_pb2.ErrorDetail(code="model_not_found", message="There is no such model.")
    refused = events_pb2.ErrorEvent(status=404, error=detail)
    with pytest.raises(AgentFailed, match="There is no such model"):
        await agent_of(ScriptedClient([ending(error=refused)]), []).run([Step("Hello.")])


async def test_a_model_that_calls_for_ever_is_stopped() -> None:
    response = responses_pb2.Response(id="resp", output=[called("echo")])
    calls = [ending(completed=events_pb2.ResponseEvent(response=response))]
    with pytest.raises(AgentFailed, match="does not stop"):
        await agent_of(ScriptedClient(*[calls] * 20), []).run([Step("Hello.")])


async def test_events_that_nobody_knows_are_passed_over() -> None:
    response = responses_pb2.Response(id="resp")
    completed = ending(completed=events_pb2.ResponseEvent(response=response))
    client = ScriptedClient([events_pb2.ServerEvent(), completed])
    agent = agent_of(client, [])
    await agent.run([Step("Hello.")])
    assert len(agent.turns) == 1


async def test_a_connection_that_ends_ends_the_task() -> None:
    with pytest.raises(Disconnected):
        await agent_of(ScriptedClient([]), []).run([Step("Hello.")])
