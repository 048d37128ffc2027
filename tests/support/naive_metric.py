"""CMKP's metric once more, from the written rules alone: one post at a time, plain loops, nothing shared with ours."""

import math
from functools import cache

from nltk.stem.porter import PorterStemmer

PORTER = PorterStemmer()


def naive_scores(posts, lines, train, ocr=None):
    scores = {}
    for group in ("all", "present", "absent", "seen", "unseen"):
        rows = []
        for number, post in enumerate(posts):
            text = [_stem(word) for word in (post.text + " " + ocr[number] if ocr else post.text).split()]
            targets = [p for p in _distinct(";".join(post.keyphrases)) if p[0] != [""] and _in(group, p, text, train)]
            found = [p for p in _distinct(lines[number]) if not {"<unk>", ",", "."} & set(p[0])]
            found = [p for p in found if _in(group, p, text, train)]
            if targets:
                wanted = [stems for stems, _ in targets]
                rows.append(_post([int(stems in wanted) for stems, _ in found], len(targets)))
        scores[group] = _corpus(rows) if rows else None
    return scores


@cache
def _stem(word):
    return PORTER.stem(word.strip().lower())


def _distinct(line):
    kept = []
    for raw in line.split(";"):
        raw = raw.strip().lower()
        stems = [_stem(word) for word in raw.split(" ")]
        if stems not in [each for each, _ in kept]:
            kept.append((stems, raw))
    return kept


def _in(group, phrase, text, train):
    stems, raw = phrase
    present = stems != [""] and any(text[i : i + len(stems)] == stems for i in range(len(text)))
    return {"all": True, "present": present, "absent": not present, "seen": raw in train, "unseen": raw not in train}[
        group
    ]


def _post(hits, targets):
    row = {}
    for k, n in (("1", 1), ("3", 3), ("5", 5), ("M", len(hits))):
        top = hits[:n]
        row[f"p@{k}"] = sum(top) / len(top) if top else 0.0
        row[f"r@{k}"] = sum(top) / targets
    row["map@5"] = sum(sum(hits[: i + 1]) / (i + 1) for i in range(min(5, len(hits))) if hits[i]) / targets
    ideal = _dcg(sorted(hits, reverse=True)[:5])
    row["ndcg@5"] = _dcg(hits[:5]) / ideal if ideal else 0.0
    return row


def _dcg(hits):
    return sum(hit / math.log2(rank + 1) for rank, hit in enumerate(hits, 1))


def _corpus(rows):
    mean = {name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0]}
    scores = {"n": len(rows)} | {name: mean[name] for name in ("p@1", "r@1", "map@5", "ndcg@5")}
    for k in "135M":
        p, r = mean[f"p@{k}"], mean[f"r@{k}"]
        scores[f"f1@{k}"] = 2 * p * r / (p + r) if p + r else 0.0
    return scores
