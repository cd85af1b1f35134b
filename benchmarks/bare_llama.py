"""llama-cpp-python's own loop over tokens, and nothing else: what a local model is compared with.

Run as `python -m benchmarks.bare_llama FILE PROMPT CONTEXT FIRST LAST`; prints JSON: the CPU and
the time per token in µs, from one token of an answer to another, and the tokens that end one.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import islice

import llama_cpp

# llama.cpp's own, which its bindings do not use by themselves.
_SAMPLING = {"temp": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "repeat_penalty": 1.0}


def main(path: str, prompt: str, context: int, first: int, last: int) -> None:
    """Generate one answer, and never end before."""
    model = llama_cpp.Llama(path, n_ctx=context, verbose=False)
    vocab = llama_cpp.llama_model_get_vocab(model.model)
    ends = [token for token in range(model.n_vocab()) if llama_cpp.llama_vocab_is_eog(vocab, token)]
    text = b""
    tokens = model.generate(model.tokenize(prompt.encode()), **_SAMPLING)
    for token in islice(tokens, first):
        text += model.detokenize([token])
    cpu_s, began_at = time.process_time(), time.perf_counter()
    for token in islice(tokens, last - first):
        text += model.detokenize([token])
    took_s, cpu_s = time.perf_counter() - began_at, time.process_time() - cpu_s
    each = {"cpu_us": cpu_s / (last - first) * 1e6, "wall_us": took_s / (last - first) * 1e6}
    sys.stdout.write(json.dumps({**each, "ends": ends}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
