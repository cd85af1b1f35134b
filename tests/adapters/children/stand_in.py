"""A child whose model is a text: `--model` names a JSON file with the tokens it always says.

`texts` (a list of them for each choice, in turn), `template`, `context`, `is_thinking`; a
prompt has one token
for each word. When the file is written anew, all of it is said anew. A piece of `null` stands for
work that ends only when nobody waits for it any more; every such end adds a line to the file beside
the model that is called `abandoned`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.children import chat
from adapters.children.generating import Form, Likely, Prompt, Sampling, Token
from adapters.children.serving import Model, arguments, main
from adapters.children.turns import Abandoned, ModelThread


class Recital:
    vocabulary = 100

    context = 1000
    template = ""

    def __init__(self, path: Path, thread: ModelThread) -> None:
        self._path = path
        self._log = path.with_name("abandoned")
        self._thread = thread
        self._read = ""
        self.load()

    def load(self) -> None:
        if (text := self._path.read_text()) != self._read:
            self._read = text
            told = json.loads(text)
            self._texts = iter(told["texts"])
            self.context = told.get("context", 1000)
            self.template = told.get("template", "")
            self.is_thinking = told.get("is_thinking", False)

    def render(self, messages: Sequence[Mapping[str, Any]], /, **variables: Any) -> Prompt:
        self.load()
        if any(message["role"] == "wizard" for message in messages):
            raise ValueError("no wizards")
        said = " ".join(json.dumps(message) for message in messages)
        return Prompt([1 for _ in said.split(" ")], self.is_thinking)

    def grammar_of(self, forms: Sequence[Form]) -> str:
        if any(form.schema.get("type") == "nonsense" for form in forms):
            raise ValueError("nonsense")
        return "root ::= [a-z]"

    def read(self, prompt: Sequence[int]) -> int:
        return 0

    def generate(self, sampling: Sampling) -> Iterator[Token]:
        for number, piece in enumerate(next(self._texts)):
            if piece is None:
                self._linger()
            if piece == "crash":
                raise RuntimeError("the model broke")
            logprob = None if sampling.top_logprobs is None else -0.5 - number
            others = [Likely(b"other", float("-inf"))] * (sampling.top_logprobs or 0)
            yield Token(piece.encode("utf-8", "surrogateescape"), logprob, others)

    def _linger(self) -> None:
        self._log.with_name("lingering").touch()
        try:
            while True:
                self._thread.check()
                time.sleep(0.001)
        except Abandoned:
            with self._log.open("a") as log:
                log.write("abandoned\n")
            raise


def load(command_line: Sequence[str]) -> tuple[Model, int]:
    asked = arguments("recites").parse_args(command_line)
    print("what a library prints is not for the parent")
    thread = ModelThread()
    engine = Recital(Path(asked.model), thread)
    endpoints = {"/v1/chat/completions": chat.endpoint(engine, thread)}
    return Model(name=asked.name, endpoints=endpoints, about={"context": 7}), asked.port


if __name__ == "__main__":
    main(load)
