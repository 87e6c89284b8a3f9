"""Messages of one text: how they are made, and how a text that was sent plainly is said in parts."""

from turnwire.v1 import items_pb2


def text_message(role: str, text: str) -> items_pb2.Item:
    """Return a message of one text."""
    return items_pb2.Item(message=items_pb2.Message(role=role, content=[_part(role, text)]))


def put_in_parts(said: items_pb2.Message) -> None:
    """Turn content that was sent as a plain string into the part that it stands for."""
    if said.HasField("content_text"):
        text = said.content_text
        said.ClearField("content_text")
        said.content.append(_part(said.role, text))


def _part(role: str, text: str) -> items_pb2.ContentPart:
    if role == "assistant":
        return items_pb2.ContentPart(output_text=items_pb2.OutputText(text=text))
    return items_pb2.ContentPart(input_text=items_pb2.Text(text=text))
