"""What a request is, told from a few pieces of it: task, complexity, domain, language, length.

Words are looked up in tables, a few hundred at most however long the prompt is: tens of
microseconds, no model, no network. It is a guess. What depends on it must work with a wrong one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from policies import vocabulary
from policies.base import (
    Analysis,
    Capability,
    Complexity,
    Domain,
    Latency,
    Modality,
    Prompt,
    Task,
)

# An order stands at either end of a prompt; what is between is what it is about.
_HEAD = 600
_TAIL = 400
_ORDER_HEAD = 200
_ORDER_TAIL = 120

# Scripts without spaces, where words are looked for anywhere in the text.
_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_unspaced = re.compile(f"[{_UNSPACED}]").search
_word = re.compile(rf"[^\W\d_{_UNSPACED}]+").findall
_arithmetic = re.compile(
    r"\d\s*(?:[-+*/^\u00d7÷=<>]|mod|\*\*)\s*[\dxyn(]|\b[fx]\s*\(?[xn]\)?\s*="
).search
_code_line = re.compile(
    r"^[ \t]*(?:def |class |import |from \w+ import|#include|public |const |let |function |\$ )"
    r"|[{};]$",
    re.MULTILINE,
).search
_CODE = ("```", "select * from", "()", "=>", "</", "c++", "c#", "&&", "!=", "==")
# Looks at no blank line twice: a prompt may be made of nothing else.
_item = re.compile(r"^[^\S\n]*(?:[-*•]|\d{1,2}[.)])\s", re.MULTILINE).findall
_length = re.compile(
    r"(?<!\d)(\d{1,5})\s{0,3}[- ]?"
    r"(words?|wörter\w*|worte|mots|palabras|parole|palavras|woorden|слов\w*"
    r"|字|文字|단어"
    r"|sentences?|sätze\w*|phrases|frases|frasi|предложени\w*|句|문장"
    r"|paragraphs?|absätze\w*|paragraphes|párrafos|pages?|seiten?|páginas)",
    re.IGNORECASE,
).search
_TOKENS_IN = {"w": 1.4, "s": 25.0, "p": 110.0, "g": 500.0}
_ONE_WORD = (
    "one word", "yes or no", "true or false", "single word", "single number", "single letter",
    "only the number", "only the answer", "only the name", "ein wort", "einem wort", "ja oder nein",
    "un mot", "un seul mot", "oui ou non", "una palabra", "sí o no", "una parola", "uma palavra",
    "одним словом", "да или нет", "一个词", "是或否", "一言で", "한 단어", "예 또는 아니",
)  # fmt: skip
_SCRIPTS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("ja", re.compile("[\u3040-\u30ff]")),
    ("ko", re.compile("[\uac00-\ud7af\u1100-\u11ff]")),
    ("zh", re.compile("[\u3400-\u9fff]")),
    ("th", re.compile("[\u0e00-\u0e7f]")),
    ("hi", re.compile("[\u0900-\u097f]")),
    ("ar", re.compile("[\u0600-\u06ff]")),
    ("he", re.compile("[\u0590-\u05ff]")),
    ("el", re.compile("[\u0370-\u03ff]")),
    ("uk", re.compile("[іїєґІЇЄҐ]")),
    ("ru", re.compile("[\u0400-\u04ff]")),
)

# An answer's length in tokens, by what is asked for; complexity stretches it.
_ANSWER_TOKENS: Mapping[Task, int] = {
    "chat": 150,
    "coding": 450,
    "reasoning": 400,
    "extraction": 200,
    "summarisation": 250,
    "translation": 150,
    "creative": 500,
    "vision": 200,
    "speech": 200,
    "embedding": 0,
}
_STRETCH: Mapping[Complexity, float] = {
    "simple": 0.6,
    "medium": 1.0,
    "complex": 2.0,
    "very_complex": 3.5,
}
# Of what reads a long text and does the same with all of it, the length says little.
_MECHANICAL: frozenset[Task] = frozenset({"translation", "summarisation", "extraction"})
_CHARS_PER_TOKEN = 4
_TOKENS_IN_OTHERS = 1.6
_LONGEST_ANSWER = 100_000
# Below so many points a request is no more than that.
_ENDS: tuple[tuple[Complexity, float], ...] = (("simple", 1.0), ("medium", 2.6), ("complex", 4.6))
# With less than this said for any kind of work, a request is a chat.
_LEAST_SAID = 1.4


def analyse(
    prompt: Prompt,
    *,
    needs: frozenset[Capability] = frozenset({"chat"}),
    input_tokens: int = 0,
    output_tokens: int | None = None,
    stream: bool = False,
) -> Analysis:
    """What a request is taken to be. Pure, and the same for the same request."""
    words = _Words(_ends(prompt.text, _HEAD, _TAIL))
    task = _task(needs, words)
    complexity = _complexity(task, words, prompt, needs, input_tokens)
    expected = _output_tokens(task, complexity, words, prompt, output_tokens)
    return Analysis(
        task=task,
        complexity=complexity,
        domain=_domain(task, words),
        language=_language(words),
        modality=_modality(needs),
        output_tokens=expected,
        latency_sensitivity=_latency(words, expected, input_tokens, stream=stream),
    )


class _Table:
    """A table of words: what each of them says for which of the table's names."""

    def __init__(self, entries: Iterable[tuple[str, float, str]]) -> None:
        self.words: dict[str, list[tuple[str, float]]] = {}
        self.stems: dict[str, list[tuple[str, float]]] = {}
        self.anywhere: list[tuple[str, str, float]] = []
        for name, weight, words in entries:
            for word in words.split():
                if _unspaced(word):
                    self.anywhere.append((word, name, weight))
                elif word.endswith("*"):
                    self.stems.setdefault(word[:-1], []).append((name, weight))
                else:
                    self.words.setdefault(word, []).append((name, weight))
        self.lengths = sorted({len(stem) for stem in self.stems})
        # As long as the shortest stem: nearly every word is known by it to have none.
        self._shortest = self.lengths[0] if self.lengths else 0
        self._beginnings = {stem[: self._shortest] for stem in self.stems}

    def of(self, word: str) -> Sequence[tuple[str, float]]:
        """What one word says."""
        said = self.words.get(word)
        if said is not None:
            return said
        for size in self.lengths:
            if size > len(word):
                break
            said = self.stems.get(word[:size])
            if said is not None:
                return said
        return ()

    def scores(self, words: Iterable[str]) -> dict[str, float]:
        """What words say for each name, together."""
        scores: dict[str, float] = {}
        known, beginnings, shortest = self.words, self._beginnings, self._shortest
        for word in words:
            if word in known or word[:shortest] in beginnings:
                for name, weight in self.of(word):
                    scores[name] = scores.get(name, 0.0) + weight
        return scores


class _Words:
    """A text, its words, and what they say."""

    def __init__(self, text: str) -> None:
        self.text = text.lower()
        self.order = _ends(self.text, _ORDER_HEAD, _ORDER_TAIL)
        self.is_unspaced = not text.isascii() and _unspaced(text) is not None
        self.ordered = _word(self.text)
        # In their order, not a set's: sums and ties come out the same in every process.
        self.words = tuple(dict.fromkeys(self.ordered))
        self.has_code = (
            any(mark in self.text for mark in _CODE) or _code_line(self.text) is not None
        )
        self.wants_one_word = any(phrase in self.order for phrase in _ONE_WORD)
        self._scores: dict[_Table, Mapping[str, float]] = {}

    def scores(self, table: _Table) -> Mapping[str, float]:
        """What the words say for each name of a table, together; looked up once."""
        scores = self._scores.get(table)
        if scores is None:
            scores = self._scores[table] = self._looked_up(table)
        return scores

    def _looked_up(self, table: _Table) -> Mapping[str, float]:
        scores = table.scores(self.words)
        if self.is_unspaced:
            for word, name, weight in table.anywhere:
                if word in self.text:
                    scores[name] = scores.get(name, 0.0) + weight
        return scores


_TASKS = _Table(
    (name, weight, words) for name, tiers in vocabulary.TASKS.items() for weight, words in tiers
)
_PHRASES = [
    (task, weight, re.compile(pattern).search) for task, weight, pattern in vocabulary.PHRASES
]
_DOMAINS = _Table((name, 1.0, words) for name, words in vocabulary.DOMAINS.items())
_MARKS = _Table(
    (name, 1.0, words)
    for name, words in (
        ("hard", vocabulary.HARD),
        ("steps", vocabulary.STEPS),
        ("hurry", vocabulary.HURRY),
    )
)
# A word that two languages have says half as much for each.
_LANGUAGES = _Table(
    (name, 1 / sum(word in words.split() for words in vocabulary.LANGUAGES.values()), word)
    for name, own in vocabulary.LANGUAGES.items()
    for word in own.split()
)

# Where two kinds of work are named as loudly, the one that is done to the other's result.
_PRECEDENCE: tuple[Task, ...] = (
    "translation", "summarisation", "coding", "creative", "extraction", "reasoning", "chat",
)  # fmt: skip


def _ends(text: str, head: int, tail: int) -> str:
    if len(text) <= head + tail:
        return text
    return f"{text[:head]}\n{text[-tail:]}"


def _task(needs: frozenset[Capability], words: _Words) -> Task:
    if "embeddings" in needs:
        return "embedding"
    if needs & {"audio", "transcriptions", "speech"}:
        return "speech"
    if needs & {"vision", "images"}:
        return "vision"
    scores = dict(words.scores(_TASKS))

    def add(task: Task, points: float) -> None:
        scores[task] = scores.get(task, 0.0) + points

    for word in words.ordered[:4]:  # an order comes first
        for name, weight in _TASKS.of(word):
            scores[name] += weight / 4
    for task, weight, found in _PHRASES:
        if found(words.order):
            add(task, weight)
    add("coding", min(2.0, 0.7 * words.scores(_DOMAINS).get("software", 0.0)))
    if words.has_code:
        add("coding", 3.0)
    elif _arithmetic(words.order):
        add("reasoning", 2.0)
    if "json_schema" in needs:
        add("extraction", 1.5)
    best: Task = max(_PRECEDENCE, key=lambda name: scores.get(name, 0.0))
    return best if scores.get(best, 0.0) >= _LEAST_SAID else "chat"


def _complexity(
    task: Task,
    words: _Words,
    prompt: Prompt,
    needs: frozenset[Capability],
    input_tokens: int,
) -> Complexity:
    """By points: words of hard work, how much is asked for, and how much there is to read."""
    marks = words.scores(_MARKS)
    points = min(4.0, 0.9 * marks.get("hard", 0.0)) + min(1.5, 0.4 * marks.get("steps", 0.0))
    size = len(prompt.text) * (3 if words.is_unspaced else 1)
    if task not in _MECHANICAL:
        points += (size > 120) * 0.5 + (size > 400) * 0.6 + (size > 1500) * 0.7
    points += min(1.5, len(_item(words.text)) / 3)
    points += 0.5 * (words.text.count("?") + words.text.count("\uff1f") > 2)
    points += (input_tokens > 8_000) * 0.7 + (input_tokens > 50_000) * 1.0
    points += 0.6 * ("tools" in needs) + 0.4 * (prompt.turns > 10)
    if task == "reasoning":
        points += 0.2 if size < 60 and _arithmetic(words.order) else 1.0
    elif task in ("coding", "creative"):
        points += 0.4
    if words.wants_one_word:
        points -= 0.8
    return next((level for level, end in _ENDS if points < end), "very_complex")


def _output_tokens(
    task: Task, complexity: Complexity, words: _Words, prompt: Prompt, maximum: int | None
) -> int:
    if task == "embedding":
        return 0
    expected = _ANSWER_TOKENS[task] * _STRETCH[complexity]
    asked = _length(words.order)
    if asked is not None:
        expected = int(asked[1]) * _TOKENS_IN.get(asked[2][0], _TOKENS_IN_OTHERS)
    elif words.wants_one_word:
        expected = 8
    elif task == "translation":
        expected = max(20, len(prompt.text) / (1.5 if words.is_unspaced else _CHARS_PER_TOKEN))
    return max(1, min(int(expected), maximum if maximum is not None else _LONGEST_ANSWER))


def _domain(task: Task, words: _Words) -> Domain:
    scores = words.scores(_DOMAINS)
    best: Domain = max(vocabulary.DOMAINS, key=lambda name: scores.get(name, 0.0))
    if scores.get(best, 0.0) > 0:
        return best
    return "software" if task == "coding" else "general"


def _language(words: _Words) -> str:
    text = words.text
    if not text.isascii():
        found = {name: len(pattern.findall(text)) for name, pattern in _SCRIPTS}
        letters = sum(map(len, words.ordered)) + sum(
            found[name] for name in ("ja", "ko", "zh", "th")
        )
        # Kana among ideographs are Japanese; Cyrillic with a few letters of its own is Ukrainian.
        shares = {
            **found,
            "ja": found["ja"] and found["ja"] + found["zh"],
            "uk": found["uk"] and found["uk"] + found["ru"],
        }
        for name, share in shares.items():
            if share * 3 > letters:
                return name
    common = dict(words.scores(_LANGUAGES))
    if not text.isascii():
        for name, letters_of in vocabulary.LETTERS.items():
            if any(letter in text for letter in letters_of):
                common[name] = common.get(name, 0.0) + 1.0
    if common:
        return max(common, key=lambda name: common[name])
    return "en" if len(words.words) > 1 and text.isascii() else "und"


def _modality(needs: frozenset[Capability]) -> Modality:
    if "vision" in needs:
        return "image"
    if needs & {"audio", "transcriptions"}:
        return "audio"
    return "file" if "files" in needs else "text"


def _latency(words: _Words, expected: int, input_tokens: int, *, stream: bool) -> Latency:
    """Somebody who watches a short answer come waits for its first word."""
    if words.scores(_MARKS).get("hurry") or (stream and expected <= 300):
        return "high"
    return "normal" if stream or expected + input_tokens / 20 <= 1_000 else "low"
