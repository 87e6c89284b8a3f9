"""A real llama model small enough for tests, made on the spot from a seed.

It has random weights and a vocabulary of bytes, so it says nothing; but it says it in printable
ASCII, speaks ChatML, and obeys a JSON schema like any other model.
"""

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

IM_START, IM_END = 257, 258

_EMBEDDING, _FEED_FORWARD, _LAYERS, _HEADS = 64, 128, 2, 4
_VOCABULARY = 259
_SPOKEN = [*range(32, 127), IM_END]


def tiny_gguf(directory: Path, template: str | None = None) -> Path:
    """Write the model, with a chat template of its own if there is one; return its path."""
    path = directory / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer)
    if template:
        writer.add_chat_template(template)
    _add_tokenizer(writer)
    _add_weights(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _describe(writer: gguf.GGUFWriter) -> None:
    writer.add_name("tiny")
    writer.add_context_length(8192)
    writer.add_embedding_length(_EMBEDDING)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_EMBEDDING // _HEADS)
    writer.add_vocab_size(_VOCABULARY)


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*_byte_names(), "<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_token_types([normal] * 256 + [control] * 3)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(IM_START)
    writer.add_eos_token_id(IM_END)
    writer.add_add_bos_token(False)


def _byte_names() -> list[str]:
    """Name bytes as GPT-2 does: themselves where they can be seen, else further up in Unicode."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    unseen = [byte for byte in range(256) if byte not in seen]
    names = {byte: chr(byte) for byte in seen}
    names |= {byte: chr(256 + place) for place, byte in enumerate(unseen)}
    return [names[byte] for byte in range(256)]


def _add_weights(writer: gguf.GGUFWriter) -> None:
    random = np.random.default_rng(7)

    def weights(*shape: int) -> npt.NDArray[np.float32]:
        return random.normal(0, 0.3, shape).astype(np.float32)

    output = np.zeros((_VOCABULARY, _EMBEDDING), np.float32)
    output[_SPOKEN] = 4 * weights(len(_SPOKEN), _EMBEDDING)
    writer.add_tensor("token_embd.weight", weights(_VOCABULARY, _EMBEDDING))
    writer.add_tensor("output.weight", output)
    writer.add_tensor("output_norm.weight", np.ones(_EMBEDDING, np.float32))
    for layer in range(_LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(_EMBEDDING, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", weights(_EMBEDDING, _EMBEDDING))
        for name in ("ffn_gate", "ffn_up"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", weights(_FEED_FORWARD, _EMBEDDING))
        writer.add_tensor(f"blk.{layer}.ffn_down.weight", weights(_EMBEDDING, _FEED_FORWARD))
