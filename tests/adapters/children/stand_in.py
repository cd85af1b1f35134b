"""A child whose model is a text: `--model` names a JSON file with the tokens it always says.

`pieces` (a list of them for each choice), `template`, `context`; a prompt has one token for each
word. A piece of `null` stands for work that ends only when nobody waits for it any more; every
such end adds a line to the file beside the model that is called `abandoned`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.children import chat
from adapters.children.generating import Likely, Sampling, Token
from adapters.children.serving import Model, arguments, main
from adapters.children.turns import Abandoned, ModelThread


class Recital:
    vocabulary = 100

    def __init__(self, path: Path, thread: ModelThread) -> None:
        told = json.loads(path.read_text())
        self._log = path.with_name("abandoned")
        self._thread = thread
        self._texts = iter(told["texts"])
        self.context = told.get("context", 1000)
        self.template = told.get("template", "")

    def render(self, messages: Sequence[Mapping[str, Any]], **variables: Any) -> list[int]:
        if any(message["role"] == "wizard" for message in messages):
            raise ValueError("no wizards")
        said = " ".join(json.dumps(message) for message in messages)
        return [1 for _ in said.split(" ")]

    def grammar_of(self, schema: Mapping[str, Any]) -> str:
        if schema.get("type") == "nonsense":
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
