// The SDK's conversations: items that are kept on the server, and a response made in one.

import { client, listed, tell } from "./conversation.mjs";

const model = "simulator";

const talk = await client.conversations.create({
  metadata: { topic: "doors" },
  items: [{ type: "message", role: "user", content: "remember the door" }],
});
const said = await client.responses.create({ model, conversation: talk.id, input: "#sim text 4" });
const remembered = await listed(client.conversations.items.list(talk.id, { order: "asc" }));
const one = await client.conversations.items.retrieve(remembered[0].id, {
  conversation_id: talk.id,
});
const renamed = await client.conversations.update(talk.id, { metadata: { topic: "windows" } });
const deleted = await client.conversations.delete(talk.id);

tell({
  object: talk.object,
  said: said.output_text,
  types: remembered.map((item) => [item.type, item.role]),
  same: one.id === remembered[0].id,
  topic: renamed.metadata.topic,
  deleted: deleted.deleted,
});
