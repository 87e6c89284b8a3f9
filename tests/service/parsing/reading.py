"""Words for tests that read what a model wrote."""

from collections.abc import Iterable

from service.backends import CallText, Produced, ReasoningText, Text
from service.backends.tools import Toolbox
from service.parsing import Reader
from service.parsing.syntax import JsonCalls, Syntax, TaggedCalls
from tests.service.backends.llama_cpp.conversing import custom, function, namespace

TOOLS = Toolbox(
    [
        function(
            "look",
            at={"type": "string"},
            far={"type": "boolean"},
            near={"type": ["string", "null"]},
            count={"type": "integer"},
            parts={"type": "array"},
        ),
        custom("run"),
        namespace("crm", function("find")),
    ]
).tools


def wide(text: str) -> str:
    """Write marks with the wide bars that DeepSeek has."""
    return text.replace("|", "\N{FULLWIDTH VERTICAL LINE}")


QWEN = Syntax(
    thought_opens="<think>",
    thought_closes="</think>",
    calls=JsonCalls('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>"),
)
LLAMA = Syntax(calls=JsonCalls('{"name": "', '", "parameters": ', "}"))
MISTRAL = Syntax(calls=JsonCalls("[TOOL_CALLS]", "[ARGS]", ""))
MISTRAL_LIST = Syntax(
    calls=JsonCalls('[TOOL_CALLS][{"name": "', '", "arguments": ', ', "id": "abcdef123"}]')
)
DEEPSEEK = Syntax(
    thought_opens="<think>",
    thought_closes="</think>",
    calls=JsonCalls(
        wide("<|tool▁calls▁begin|><|tool▁call▁begin|>function<|tool▁sep|>"),
        "\n```json\n",
        wide("\n```<|tool▁call▁end|><|tool▁calls▁end|>"),
    ),
)
KIMI = Syntax(
    calls=JsonCalls(
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.",
        ":0<|tool_call_argument_begin|>",
        "<|tool_call_end|><|tool_calls_section_end|>",
    )
)
CODER = Syntax(
    calls=TaggedCalls(
        "<tool_call>\n<function=",
        ">\n<parameter=",
        ">\n",
        "\n</parameter>\n",
        "</function>\n</tool_call>",
    )
)
CODER_OTHERWISE_CUT = Syntax(
    calls=TaggedCalls(
        "<tool_call>\n<function=",
        "\n<parameter=",
        ">\n",
        "\n</parameter>",
        "\n</function>\n</tool_call>",
    )
)
GLM = Syntax(
    thought_opens="<think>",
    thought_closes="</think>",
    calls=TaggedCalls(
        "<tool_call>",
        "\n<arg_key>",
        "</arg_key>\n<arg_value>",
        "</arg_value>",
        "\n</tool_call>",
    ),
)
MINIMAX = Syntax(
    calls=TaggedCalls(
        '<minimax:tool_call>\n<invoke name="',
        '">\n<parameter name="',
        '">',
        "</parameter>",
        "\n</invoke>\n</minimax:tool_call>",
    )
)
SYNTAXES = {
    "qwen": QWEN,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "mistral_list": MISTRAL_LIST,
    "deepseek": DEEPSEEK,
    "kimi": KIMI,
    "coder": CODER,
    "coder_otherwise_cut": CODER_OTHERWISE_CUT,
    "glm": GLM,
    "minimax": MINIMAX,
}


def read(reader: Reader, pieces: Iterable[str]) -> list[Produced]:
    """Return what was produced, with what belongs together joined."""
    return joined([*(part for piece in pieces for part in reader.push(piece)), *reader.end()])


def read_cut(reader: Reader, pieces: Iterable[str]) -> list[Produced]:
    """The same for an answer that was cut off."""
    return joined([*(part for piece in pieces for part in reader.push(piece)), *reader.cut()])


def joined(produced: Iterable[Produced]) -> list[Produced]:
    whole: list[Produced] = []
    for part in produced:
        last = whole[-1] if whole else None
        if isinstance(part, Text) and isinstance(last, Text):
            whole[-1] = Text(last.text + part.text)
        elif isinstance(part, ReasoningText) and isinstance(last, ReasoningText):
            whole[-1] = ReasoningText(last.text + part.text)
        elif isinstance(part, CallText) and isinstance(last, CallText):
            whole[-1] = CallText(last.text + part.text)
        else:
            whole.append(part)
    return whole
