// The SDK's lanes: all that may run at once, each with a turn of its own, then a fork of the first.

import { ResponsesWS } from "openai/resources/responses/ws";
import { ResponsesWebSocketSession } from "openai/lib/responses/responses-websocket-session";

import { client, tell, text } from "./conversation.mjs";

const LANES = 16;
const socket = new ResponsesWS(client);
await new Promise((resolve) => socket.socket.once("open", resolve));
const session = new ResponsesWebSocketSession(socket, {
  maxLanes: 2 * LANES,
  maxBufferedEvents: 4096,
  maxBufferedBytes: 1 << 24,
});

const ask = (lane, request) => {
  lane.create({ model: "simulator", store: false, ...request });
  return lane.finalResponse();
};
const lanes = Array.from({ length: LANES }, (_, number) => session.lane(`lane-${number}`));
const turns = await Promise.all(
  lanes.map((lane, number) => ask(lane, { input: `#sim text ${number + 1}` })),
);
const forks = await Promise.all(
  lanes
    .slice(1)
    .map((lane) => ask(lane, { input: "#sim text 2", previous_response_id: turns[0].id })),
);
session.close();
socket.close();

tell({
  words: turns.map((response) => text(response).split(" ").length),
  statuses: [...turns, ...forks].map((response) => response.status),
  ids: [...turns, ...forks].map((response) => response.id),
  parents: forks.map((response) => response.previous_response_id === turns[0].id),
});
