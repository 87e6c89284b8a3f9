"""Servers of the chat completions API: they tell text, thoughts and calls apart themselves.

Most are told a conversation as messages. Some take the prompt's token ids in their place and still
parse what the model answers: there a conversation is rendered here, once, and kept as ids.
"""
