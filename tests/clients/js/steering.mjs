// The SDK's typed steering event: input for a response that is still being made, and its successor.

import { Conversation, deltas, tell } from "./conversation.mjs";

const conversation = new Conversation();
const input = "#sim text 2 ; stall 2 ; text 2"; // steered while it stalls: it ends with its first item
conversation.socket.send({ type: "response.create", model: "simulator", input });
const opening = [];
do opening.push(await conversation.next());
while (opening.at(-1).type !== "response.output_text.delta");

const steered = opening[0].response.id;
const rest = await conversation.say({
  type: "response.steer",
  previous_response_id: steered,
  input: "#sim text 3",
});
const first = [...opening, ...rest].filter((event) => !event.type.startsWith("response.steer"));
const successor = await conversation.hear();

const late = await conversation.say({
  type: "response.steer",
  previous_response_id: successor[0].response.id,
  input: "#sim text 3",
});
conversation.close();

const accepted = rest.find((event) => event.type === "response.steer.accepted");
tell({
  accepted: accepted && accepted.steer.previous_response_id === steered,
  last: first.at(-1).type,
  reason: first.at(-1).response.incomplete_details?.reason,
  text: deltas(first),
  successor: {
    parent: successor[0].response.previous_response_id === steered,
    types: successor.map((event) => event.type),
    text: deltas(successor),
  },
  late: { type: late.at(-1).type, code: late.at(-1).error?.code },
});
