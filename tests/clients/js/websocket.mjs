// A conversation over the SDK's WebSocket: text, a tool's round trip, store: false, an error.

import { Conversation, LOOK, client, deltas, outputs, tell, text } from "./conversation.mjs";

const conversation = new Conversation();

const plain = await conversation.turn({ input: "#sim text 5" });
const first = plain.at(-1).response;

const called = await conversation.turn({
  input: '#sim call look {"step":1} ; call look {"step":2}',
  tools: [LOOK],
  store: false,
  previous_response_id: first.id,
});
const asking = called.at(-1).response;
const answered = await conversation.turn({
  input: outputs(asking, "a door"),
  tools: [LOOK],
  store: false,
  previous_response_id: asking.id,
});

const unknown = await conversation.turn({ input: "hi", previous_response_id: "resp_0" });
const refused = unknown.at(-1);
const after = await conversation.turn({ input: "#sim text 1" });
conversation.close();

const elsewhere = new Conversation();
const forgotten = await elsewhere.turn({ input: "hi", previous_response_id: asking.id });
const kept = await elsewhere.turn({ input: "#sim text 2", previous_response_id: first.id });
elsewhere.close();

const stranger = new Conversation(client.withOptions({ apiKey: "nonsense" }));
const rejected = await stranger.turn({ input: "hi" }).catch((error) => error.message);

tell({
  plain: {
    types: plain.map((event) => event.type),
    numbers: plain.map((event) => event.sequence_number),
    deltas: deltas(plain),
    text: text(first),
  },
  calls: asking.output.map((item) => [item.type, item.name, item.arguments]),
  answer: text(answered.at(-1).response),
  cached: answered.at(-1).response.usage.input_tokens_details.cached_tokens,
  refused: { type: refused.type, status: refused.status, error: refused.error },
  after: after.at(-1).type,
  forgotten: forgotten.at(-1).error.code,
  rejected,
  kept: text(kept.at(-1).response),
});
