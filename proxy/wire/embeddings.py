"""`POST /v1/embeddings`: what routing and money need, and vectors in the format asked for.

Source: OpenAI's API reference, "Create embeddings". base64 vectors are little-endian float32.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Mapping, Set
from typing import Annotated, Literal, cast

import msgspec

from adapters.base import Endpoint
from policies.base import NO_PROMPT, Capability, Prompt
from proxy.errors import InvalidRequest
from proxy.pricing import NO_UNITS, Units
from proxy.wire import answers
from proxy.wire.answers import Vector
from proxy.wire.body import Body
from proxy.wire.dialect import Facts, Identity, Sent, Stream, Upstream, Whole
from proxy.wire.relayed import named_in
from proxy.wire.tags import Change
from proxy.wire.tags import read as read_tags

MAX_INPUTS = 2048
# What a model may add to each item: special tokens, and the prefix that tells queries from texts.
ITEM_TOKENS = 16

# Members that are no text to any model; others may be put before each item, as instructions are.
_NO_TEXT = frozenset({"model", "input", "encoding_format", "dimensions", "user", "metadata"})
# What servers embed in place of the input, or besides: chats, images, other models' vectors.
_UNBOUNDED = ("messages", "images", "image", "video", "contents", "models")

Format = Literal["float", "base64"]
# What a vector begins with, and the indexes of all of them.
_BEGIN: Mapping[Format, Set[int]] = {"float": frozenset(b"["), "base64": frozenset(b'"')}
_NUMBERS = [b"%d" % place for place in range(MAX_INPUTS)]

_TokenId = Annotated[int, msgspec.Meta(ge=0)]
_NEEDS: frozenset[Capability] = frozenset({"embeddings"})


class _Fields(msgspec.Struct):
    model: Annotated[str, msgspec.Meta(min_length=1)]
    input: msgspec.Raw
    encoding_format: Format | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None
    user: str | None = None


_fields = msgspec.json.Decoder(_Fields)
Input = str | list[str | _TokenId | list[_TokenId]]
_input: msgspec.json.Decoder[Input] = msgspec.json.Decoder(Input)

_Item = dict[str, msgspec.Raw]
_top = msgspec.json.Decoder(dict[str, msgspec.Raw])
_items = msgspec.json.Decoder(list[_Item])
_vector: msgspec.json.Decoder[str | list[float]] = msgspec.json.Decoder(str | list[float])


class EmbeddingsRequest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An embeddings request: its body, and what we had to know of it.

    `input_tokens` is routing's estimate, `token_bound` an upper bound of the input.
    """

    body: Body
    model: str
    encoding_format: Format
    items: int
    input_tokens: int
    token_bound: int
    user: str | None = None
    tags: tuple[str, ...] = ()
    withheld: Change = msgspec.field(default_factory=dict)

    endpoint: Endpoint = "embeddings"
    capability: Capability = "embeddings"
    needs: frozenset[Capability] = _NEEDS
    stream: bool = False
    wants_usage: bool = True
    max_output_tokens: int | None = 0
    n: int = 1
    unbounded: str | None = None
    images: int = 0
    units: Units = NO_UNITS
    reasons: bool = False
    service_tier: str | None = None

    def unbounded_at(self, speaks: Set[Endpoint]) -> str | None:
        """The same at every target."""
        return self.unbounded

    def input_bound(self, image_tokens: int) -> int:
        """An upper bound of the input in tokens."""
        return self.token_bound

    def texts(self) -> tuple[list[str], int]:
        """The input, where it is text, and its bytes."""
        value = _decode_input(self.body.decode(_fields).input)
        items = [value] if isinstance(value, str) else value
        texts = [item for item in items if isinstance(item, str)]
        return texts, sum(len(text.encode()) for text in texts)

    def prompt(self) -> Prompt:
        """Nothing: what it is for is plain from the endpoint."""
        return NO_PROMPT

    def preferences(self) -> None:
        """None: OpenRouter has them for chats."""

    def upstream(self, target: Upstream) -> Sent:
        """The client's members with `model` changed."""
        changes = {"model": msgspec.json.encode(target.model), **self.withheld}
        return Sent(endpoint="embeddings", body=self.body.join(changes))

    def read_whole(
        self, sent: Endpoint, body: bytes, identity: Identity, *, reads_cost: bool
    ) -> tuple[Facts, Whole | None]:
        """The answer with its vectors in the format asked for; None where they cannot be read."""
        facts, vectors = answers.read_embeddings(body, reads_cost=reads_cost)
        try:
            return facts, Whole(body=convert(body, vectors, self.encoding_format))
        except (ValueError, KeyError):
            return facts, None

    def read_stream(self, sent: Endpoint, identity: Identity, *, reads_cost: bool) -> Stream:
        """Vectors are not streamed."""
        raise AssertionError("embeddings are not streamed")


def parse(raw: bytes, headers: Mapping[bytes, bytes] | None = None) -> EmbeddingsRequest:
    """Read a request body; raises `InvalidRequest`."""
    body = Body.parse(raw)
    fields = body.decode(_fields)
    items, estimate, most = _measure(_decode_input(fields.input))
    named, withheld = read_tags(body)
    prefix = sum([len(memoryview(body.members[name])) for name in body.members.keys() - _NO_TEXT])
    return EmbeddingsRequest(
        body=body,
        model=fields.model,
        encoding_format=fields.encoding_format or "float",
        items=items,
        input_tokens=estimate,
        token_bound=most + (ITEM_TOKENS + prefix) * items,
        unbounded=named_in(body, _UNBOUNDED),
        user=fields.user,
        tags=named,
        withheld=withheld,
    )


def _decode_input(raw: msgspec.Raw) -> Input:
    try:
        return _input.decode(raw)
    except (msgspec.ValidationError, RecursionError):
        raise InvalidRequest(
            "'input' must be a string, a list of strings, a list of token ids, "
            "or a list of lists of token ids",
            param="input",
        ) from None


def _measure(value: Input) -> tuple[int, int, int]:
    """Items, estimated tokens, and the most tokens (without `ITEM_TOKENS`)."""
    if isinstance(value, str):
        size = len(value.encode())
        return 1, size // 4, size
    if not value:
        raise InvalidRequest("'input' must not be empty", param="input")
    kinds = set(map(type, value))
    if len(kinds) > 1:
        raise InvalidRequest("'input' must not mix strings and token ids", param="input")
    if kinds == {int}:
        return 1, len(value), len(value)
    if len(value) > MAX_INPUTS:
        raise InvalidRequest(
            f"'input' has {len(value)} items; at most {MAX_INPUTS} are accepted", param="input"
        )
    if kinds == {str}:
        size = sum(map(len, map(str.encode, cast("list[str]", value))))
        return len(value), size // 4, size
    tokens = sum(len(item) for item in value if isinstance(item, list))
    return len(value), tokens, tokens


def convert(answer: bytes, vectors: list[Vector], wanted: Format) -> bytes:
    """The answer with its vectors in order and in the format asked for; itself where they are.

    Many servers ignore `encoding_format`, and a client that asked for base64 may misread floats
    without an error. Raises `ValueError` where they are none.
    """
    in_order = [bytes(vector.index) for vector in vectors] == _NUMBERS[: len(vectors)]
    if in_order and {memoryview(vector.embedding)[0] for vector in vectors} == _BEGIN[wanted]:
        return answer
    top = _top.decode(answer)
    items = _items.decode(top["data"])
    for item in items:
        _convert_item(item, wanted)
    top["data"] = msgspec.Raw(msgspec.json.encode(_in_order(items)))
    return msgspec.json.encode(top)


def _convert_item(item: _Item, wanted: Format) -> None:
    """Bring one vector into the format."""
    raw = item.get("embedding")
    if raw is None:
        raise ValueError("an item without an embedding")
    if memoryview(raw)[0] not in _BEGIN[wanted]:
        item["embedding"] = msgspec.Raw(_convert_vector(_vector.decode(raw)))


def _convert_vector(vector: str | list[float]) -> bytes:
    if isinstance(vector, str):
        return msgspec.json.encode(_unpacked(base64.b64decode(vector, validate=True)))
    try:
        packed = struct.pack(f"<{len(vector)}f", *vector)
    except OverflowError:
        raise ValueError("a vector with values that no float32 holds") from None
    return msgspec.json.encode(base64.b64encode(packed).decode())


def _unpacked(packed: bytes) -> list[float]:
    count, rest = divmod(len(packed), 4)
    if rest:
        raise ValueError("a vector that ends within a value")
    floats = list(struct.unpack(f"<{count}f", packed))
    if not all(map(math.isfinite, floats)):
        raise ValueError("a vector with values that are no numbers")
    return floats


def _in_order(items: list[_Item]) -> list[_Item]:
    """The items by their index; without indexes, the order they came in is what there is."""
    places = {bytes(item["index"]): place for place, item in enumerate(items) if "index" in item}
    if not places:
        return [{**item, "index": msgspec.Raw(b"%d" % n)} for n, item in enumerate(items)]
    try:
        return [items[places[b"%d" % place]] for place in range(len(items))]
    except KeyError:
        raise ValueError("items whose indexes do not count from 0") from None
