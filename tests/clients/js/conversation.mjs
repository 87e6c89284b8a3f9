// What the scripts share: the SDK's client (address and key come from its own environment variables),
// one response after the other on its WebSocket, and what of it the test is told.

import OpenAI from "openai";
import { ResponsesWS } from "openai/resources/responses/ws";

export const client = new OpenAI();

export const LOOK = {
  type: "function",
  name: "look",
  description: "Look around.",
  parameters: {
    type: "object",
    properties: { step: { type: "integer" } },
    required: ["step"],
    additionalProperties: false,
  },
  strict: true,
};

const LAST = new Set([
  "response.completed",
  "response.incomplete",
  "response.failed",
  "response.steer.failed",
  "error",
]);

export class Conversation {
  constructor(from = client) {
    this.socket = new ResponsesWS(from);
    this.socket.on("error", () => {}); // errors are told in the stream too
    this.stream = this.socket.stream();
  }

  /** Send an event, and return the SDK's view of what comes up to the end of a response. */
  async say(event) {
    this.socket.send(event);
    return this.hear();
  }

  async turn(create) {
    return this.say({ type: "response.create", model: "simulator", ...create });
  }

  async hear() {
    const events = [];
    for (;;) {
      const event = await this.next();
      events.push(event);
      if (LAST.has(event.type)) return events;
    }
  }

  async next() {
    for (;;) {
      const { value, done } = await this.stream.next();
      if (done || value.type === "close") throw new Error("the connection has ended");
      if (value.type === "message") return value.message;
      if (value.type === "error") return value.error.error ?? Promise.reject(value.error);
    }
  }

  close() {
    this.socket.close();
  }
}

export const outputs = (response, output) =>
  response.output
    .filter((item) => item.type === "function_call")
    .map((call) => ({ type: "function_call_output", call_id: call.call_id, output }));

export const text = (response) =>
  response.output
    .flatMap((item) => item.content ?? [])
    .map((part) => part.text ?? "")
    .join("");

export const deltas = (events) =>
  events
    .filter((event) => event.type === "response.output_text.delta")
    .map((event) => event.delta)
    .join("");

/** All items of a list that comes in pages. */
export async function listed(page) {
  const items = [];
  for await (const item of await page) items.push(item);
  return items;
}

export function tell(findings) {
  console.log(JSON.stringify(findings));
}
