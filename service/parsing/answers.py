"""Which reader an answer needs, by the model's syntax and by what the request allows."""

from service.backends import Prompt
from service.backends.tools import ToolChoice
from service.parsing import Reader
from service.parsing.calls import Tools
from service.parsing.free import FreeReader
from service.parsing.harmony import HarmonyReader
from service.parsing.held import Held, ScoredHeld
from service.parsing.syntax import Syntax
from service.parsing.texts import JsonReader, ScoredTextReader, TextReader


def reader_of(syntax: Syntax, choice: ToolChoice, prompt: Prompt, opened: str = "") -> Reader:
    """Return what reads a model's answer to a prompt.

    `opened` is the text that makes the model answer: it may have begun a thought. Of a call that we
    write ourselves, `service.parsing.calls.call_reader` reads the arguments.
    """
    text_format = prompt.settings.text.format.WhichOneof("kind")
    if not choice.forced and text_format in {"json_schema", "json_object"}:
        return JsonReader(_free({}, syntax, prompt, opened))
    return _free(choice.tools, syntax, prompt, opened)


def _free(tools: Tools, syntax: Syntax, prompt: Prompt, opened: str) -> Reader:
    held = ScoredHeld() if prompt.logprobs else Held()
    if syntax.form == "harmony":
        return HarmonyReader(tools, held, opened)
    if syntax.thought_opens or (tools and syntax.calls):
        return FreeReader(tools, held, syntax, opened)
    return ScoredTextReader() if prompt.logprobs else TextReader()
