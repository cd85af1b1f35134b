"""llama.cpp as an engine: one model and its one context, through llama-cpp-python.

Sources: `llama.h` of llama.cpp (what a batch, a sampler chain and the abort callback do) and
llama-cpp-python's API reference, "Llama".
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import jinja2
import llama_cpp
import numpy as np
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from adapters.children import llama_grammar, thinking
from adapters.children.generating import CHATML, Form, Prompt, Sampling, Token
from adapters.children.likeliest import likeliest
from adapters.children.llama_drawing import Drawing
from adapters.children.turns import Abandoned, ModelThread

# The room for a context is taken when a model is loaded; what newer ones were trained for is more
# than most machines have.
_CONTEXT = 8192
# A prompt is read in batches of so many tokens.
_BATCH = 512
# The room for a long text read in one piece grows with the square of its length.
_VECTOR_CONTEXT = 2048
_ABORTED = "llama_decode returned 2"


class LlamaEngine:
    """A loaded GGUF file; see `generating.Engine`."""

    def __init__(
        self,
        path: str,
        thread: ModelThread,
        *,
        context: int | None,
        threads: int | None,
        gpu_layers: int = -1,
    ) -> None:
        """Raises `ValueError` for what is no model, or does not fit into memory."""
        self._thread = thread
        self._llm = llama_cpp.Llama(
            path,
            n_ctx=context or _CONTEXT,
            n_batch=_BATCH,
            n_threads=threads,
            n_threads_batch=threads,
            n_gpu_layers=gpu_layers,
            verbose=False,
        )
        trained = llama_cpp.llama_model_n_ctx_train(self._llm.model)
        self.context: int = context or min(trained, _CONTEXT)
        self.vocabulary: int = self._llm.n_vocab()
        self._vocab = llama_cpp.llama_model_get_vocab(self._llm.model)
        self._memory = llama_cpp.llama_get_memory(self._llm.ctx)
        self._piece = ctypes.create_string_buffer(64)
        self._drawn = (llama_cpp.llama_token * 1)()
        # Its position is the one behind those that the context has.
        self._next = llama_cpp.llama_batch_get_one(self._drawn, 1)
        self.template: str = self._llm.metadata.get("tokenizer.chat_template", CHATML)
        self._bos = self._special(self._llm.token_bos())
        self._formatter = _formatter(self.template, self._bos, self._special(self._llm.token_eos()))
        self._abort = llama_cpp.ggml_abort_callback(lambda _: self._thread.is_abandoned)
        self._never = llama_cpp.ggml_abort_callback()

    def _special(self, token: int) -> str:
        if token < 0:
            return ""
        return self._bytes(token, shows_control=True).decode(errors="replace")

    def _bytes(self, token: int, *, shows_control: bool) -> bytes:
        # The binding's own `detokenize` loses every token of more than 32 bytes.
        size = llama_cpp.llama_token_to_piece(
            self._vocab, token, self._piece, len(self._piece), 0, shows_control
        )
        if size < 0:
            self._piece = ctypes.create_string_buffer(-size)
            return self._bytes(token, shows_control=shows_control)
        return self._piece.raw[:size]

    def render(self, messages: Sequence[Mapping[str, Any]], /, **variables: Any) -> Prompt:
        """See `generating.Engine`."""
        try:
            prompt: str = self._formatter(messages=messages, **variables).prompt
        except (jinja2.TemplateError, TypeError) as error:
            raise ValueError(f"the model's template refuses them: {error}") from None
        text = prompt.encode("utf-8", errors="replace")
        # Where the vocabulary wants a first token, a template may have written it already.
        is_begun = bool(self._bos) and prompt.startswith(self._bos)
        tokens = self._llm.tokenize(text, add_bos=not is_begun, special=True)
        return Prompt(tokens, thinking.is_begun(prompt))

    def grammar_of(self, forms: Sequence[Form]) -> str:
        """See `generating.Engine`; bounds of numbers are not kept to, nor very great lengths."""
        return llama_grammar.grammar_of(forms)

    def read(self, prompt: Sequence[int]) -> int:
        """See `generating.Engine`."""
        known = self._keep(_common(self._llm.input_ids[: self._llm.n_tokens], prompt))
        with self._abortable():
            for start in range(known, len(prompt), _BATCH):
                self._thread.check()
                self._evaluate(prompt[start : start + _BATCH])
        return known

    def _keep(self, known: int) -> int:
        """Forget all but the first tokens; how many of them there still are."""
        if known and llama_cpp.llama_memory_seq_rm(self._memory, 0, known, -1):
            self._llm.n_tokens = known
            return known
        # A recurrent model cannot go back a part of the way.
        llama_cpp.llama_memory_clear(self._memory, True)
        self._llm.reset()
        return 0

    @contextmanager
    def _abortable(self) -> Iterator[None]:
        # Only while a prompt is read: it is called for each node of the graph, in Python.
        llama_cpp.llama_set_abort_callback(self._llm.ctx, self._abort, None)
        try:
            yield
        finally:
            llama_cpp.llama_set_abort_callback(self._llm.ctx, self._never, None)

    def _evaluate(self, tokens: Sequence[int]) -> None:
        try:
            self._llm.eval(tokens)
        except RuntimeError as error:
            self._keep(0)
            if str(error) == _ABORTED:
                raise Abandoned from None
            raise

    def _take_in(self, drawn: int) -> None:
        """What `Llama.eval` does, without most of what it does around it for a single token."""
        llm = self._llm
        self._drawn[0] = drawn
        if code := llama_cpp.llama_decode(llm.ctx, self._next):
            self._keep(0)
            raise RuntimeError(f"llama_decode returned {code}")
        llm.input_ids[llm.n_tokens] = drawn
        llm.n_tokens += 1

    def generate(self, sampling: Sampling) -> Iterator[Token]:
        """See `generating.Engine`."""
        drawing = Drawing(self._llm.ctx, self._vocab, self.vocabulary, sampling)
        return self._tokens(drawing, sampling)

    def _tokens(self, drawing: Drawing, sampling: Sampling) -> Iterator[Token]:
        with closing(drawing):
            while True:
                self._thread.check()
                drawn = drawing.draw()
                if llama_cpp.llama_vocab_is_eog(self._vocab, drawn):
                    return
                yield self._token(drawn, sampling)
                self._take_in(drawn)

    def _token(self, drawn: int, sampling: Sampling) -> Token:
        text = self._bytes(drawn, shows_control=sampling.shows_control)
        if sampling.top_logprobs is None:
            return Token(text)
        logprobs = self._logprobs()
        others = likeliest(logprobs, sampling.top_logprobs, self._shown)
        return Token(text, float(logprobs[drawn]), others)

    def _shown(self, token: int) -> bytes:
        return self._bytes(token, shows_control=True)

    def _logprobs(self) -> Any:
        pointer = llama_cpp.llama_get_logits_ith(self._llm.ctx, -1)
        logits = np.ctypeslib.as_array(pointer, shape=(self.vocabulary,)).astype(np.float64)
        logits -= logits.max()
        return logits - np.log(np.exp(logits).sum())


def _common(known: Any, prompt: Sequence[int]) -> int:
    """How many tokens at the beginning of a prompt can be kept: the last is always read anew."""
    length = min(len(known), len(prompt) - 1)
    differs = np.flatnonzero(known[:length] != np.asarray(prompt[:length], dtype=known.dtype))
    return int(differs[0]) if len(differs) else max(length, 0)


def _formatter(template: str, bos: str, eos: str) -> Any:
    try:
        return Jinja2ChatFormatter(template=template, bos_token=bos, eos_token=eos)
    except jinja2.TemplateError as error:
        raise ValueError(f"the chat template of the model is broken: {error}") from None


class LlamaVectors:
    """A GGUF file that makes vectors of texts; see `vectors.Encoder`."""

    def __init__(
        self,
        path: str,
        thread: ModelThread,
        *,
        context: int | None,
        threads: int | None,
        gpu_layers: int = -1,
    ) -> None:
        """Raises `ValueError` for what is no model, or does not fit into memory."""
        self._thread = thread
        trained, pooling = _made_for(path)
        # A text is read in one piece: its last token may change what the first one means.
        self.context = min(trained, context or _VECTOR_CONTEXT)
        self._llm = _vector_model(path, self.context, threads, pooling, gpu_layers)
        self.dimensions: int = self._llm.n_embd()
        self.vocabulary: int = self._llm.n_vocab()
        self._memory = llama_cpp.llama_get_memory(self._llm.ctx)
        self._batch = _one_text(self.context)
        self._abort = llama_cpp.ggml_abort_callback(lambda _: self._thread.is_abandoned)
        llama_cpp.llama_set_abort_callback(self._llm.ctx, self._abort, None)

    def tokens_of(self, text: str) -> list[int]:
        """See `vectors.Encoder`."""
        data = text.encode("utf-8", errors="replace")
        tokens: list[int] = self._llm.tokenize(data, add_bos=True, special=False)
        return tokens

    def framed(self, tokens: list[int]) -> list[int]:
        """See `vectors.Encoder`."""
        return tokens

    def shortened(self, tokens: list[int]) -> list[int]:
        """See `vectors.Encoder`."""
        return tokens[: self.context]

    def encode(self, texts: Sequence[list[int]]) -> Iterator[list[float]]:
        """See `vectors.Encoder`."""
        for tokens in texts:
            self._thread.check()
            yield self._vector(tokens)

    def _vector(self, tokens: list[int]) -> list[float]:
        if self._memory is not None:
            llama_cpp.llama_memory_clear(self._memory, True)
        batch = self._batch
        batch.n_tokens = len(tokens)
        for position, token in enumerate(tokens):
            batch.token[position] = token
        if code := llama_cpp.llama_decode(self._llm.ctx, batch):
            self._thread.check()
            raise RuntimeError(f"llama_decode returned {code}")
        pointer = llama_cpp.llama_get_embeddings_seq(self._llm.ctx, 0)
        vector = np.ctypeslib.as_array(pointer, shape=(self.dimensions,)).astype(np.float64)
        length = float(np.linalg.norm(vector))
        unit: list[float] = (vector / length if length else vector).astype(np.float32).tolist()
        return unit


def _one_text(length: int) -> Any:
    """A batch for one text of so many tokens, each of which counts for its vector."""
    batch = llama_cpp.llama_batch_init(length, 0, 1)
    for position in range(length):
        batch.pos[position] = position
        batch.n_seq_id[position] = 1
        batch.seq_id[position][0] = 0
        batch.logits[position] = True
    return batch


def _vector_model(
    path: str, context: int, threads: int | None, pooling: int, gpu_layers: int
) -> Any:
    return llama_cpp.Llama(
        path,
        n_ctx=context,
        n_batch=context,
        n_ubatch=context,
        n_threads=threads,
        n_threads_batch=threads,
        n_gpu_layers=gpu_layers,
        embedding=True,
        pooling_type=pooling,
        verbose=False,
    )


def _made_for(path: str) -> tuple[int, int]:
    """The longest text that a model was made for, and how it makes one vector of many."""
    model = _vector_model(path, 64, 1, llama_cpp.LLAMA_POOLING_TYPE_UNSPECIFIED, 0)
    trained: int = llama_cpp.llama_model_n_ctx_train(model.model)
    pooling: int = model.pooling_type()
    model.close()
    # One that was not made for vectors does not say how.
    none = pooling == llama_cpp.LLAMA_POOLING_TYPE_NONE
    return trained, llama_cpp.LLAMA_POOLING_TYPE_MEAN if none else pooling
