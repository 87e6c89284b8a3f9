"""llama.cpp: its native completions by token ids, with a slot for each conversation."""
