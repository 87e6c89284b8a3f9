// The SDK over HTTP: whole answers, streams, what is stored.

import { LOOK, client, deltas, listed, outputs, tell, text } from "./conversation.mjs";

const model = "simulator";

async function all(stream) {
  const events = [];
  for await (const event of await stream) events.push(event);
  return events;
}

async function failure(promise) {
  const error = await promise.then(
    () => null,
    (reason) => reason,
  );
  return error && { kind: error.constructor.name, status: error.status, code: error.code };
}

const whole = await client.responses.create({ model, input: "#sim text 5", metadata: { a: "b" } });
const events = await all(
  client.responses.create({
    model,
    input: '#sim call look {"step":1}',
    tools: [LOOK],
    previous_response_id: whole.id,
    stream: true,
  }),
);
const asking = events.at(-1).response;
const helper = client.responses.stream({
  model,
  input: outputs(asking, "a door"),
  tools: [LOOK],
  previous_response_id: asking.id,
});
const answered = await helper.finalResponse();

const retrieved = await client.responses.retrieve(answered.id);
const replayed = await all(
  client.responses.retrieve(asking.id, { stream: true, starting_after: 1 }),
);
const inputs = await listed(client.responses.inputItems.list(answered.id, { order: "asc", limit: 2 }));
const unknown = await failure(
  client.responses.create({ model, input: "hi", previous_response_id: "resp_0" }),
);
await client.responses.delete(answered.id);
const gone = await failure(client.responses.retrieve(answered.id));

const background = await client.responses.create({ model, input: "#sim text 3", background: true });
const followed = await all(client.responses.retrieve(background.id, { stream: true }));
const compacted = await client.responses.compact({ model, previous_response_id: whole.id });
const compactedOn = await client.responses.create({
  model,
  input: [...compacted.output, { role: "user", content: "#sim text 2" }],
});

const models = await listed(client.models.list());

tell({
  whole: { object: whole.object, status: whole.status, text: whole.output_text, id: whole.id },
  streamed: {
    types: events.map((event) => event.type),
    numbers: events.map((event) => event.sequence_number),
    calls: asking.output.map((item) => [item.type, item.name, item.arguments]),
  },
  answer: text(answered),
  retrieved: retrieved.id === answered.id && text(retrieved) === text(answered),
  replayed: replayed.map((event) => event.sequence_number),
  inputs: inputs.map((item) => item.type),
  unknown,
  gone,
  background: {
    status: background.status,
    last: followed.at(-1).type,
    text: deltas(followed),
  },
  compacted: { object: compacted.object, last: compacted.output.at(-1).type },
  compactedOn: compactedOn.output_text,
  models: models.map((each) => each.id),
});
