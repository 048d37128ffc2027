"""CMKP's metric and its companions once more, from the written rules alone: plain loops, nothing shared with ours."""

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
    for k, n in (("1", 1), ("3", 3), ("5", 5), ("M", len(hits)), ("O", targets)):
        top = hits[:n]
        row[f"p@{k}"] = sum(top) / len(top) if top else 0.0
        row[f"r@{k}"] = sum(top) / targets
        row[f"hit@{k}"] = float(any(top))
    row["map@5"] = sum(sum(hits[: i + 1]) / (i + 1) for i in range(min(5, len(hits))) if hits[i]) / targets
    ideal = _dcg(sorted(hits, reverse=True)[:5])
    row["ndcg@5"] = _dcg(hits[:5]) / ideal if ideal else 0.0
    return row


def _dcg(hits):
    return sum(hit / math.log2(rank + 1) for rank, hit in enumerate(hits, 1))


def _corpus(rows):
    mean = {name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0]}
    scores = {"n": len(rows)} | {
        name: mean[name] for name in ("p@1", "r@1", "map@5", "ndcg@5", "hit@1", "hit@3", "hit@5")
    }
    for k in "135MO":
        p, r = mean[f"p@{k}"], mean[f"r@{k}"]
        scores[f"f1@{k}"] = 2 * p * r / (p + r) if p + r else 0.0
    return scores


def _counted(line):
    """The stems of a post's predictions that count, without an empty one."""
    return [stems for stems, _ in _distinct(line) if stems != [""] and not {"<unk>", ",", "."} & set(stems)]


def _wanted(post):
    return [stems for stems, _ in _distinct(";".join(post.keyphrases)) if stems != [""]]


def naive_companions(posts, lines, train, outputs, logprobs):
    """Of outputs in the form `kp; kp`, and a log-probability for each phrase of a line."""
    written = again = 0
    for output in outputs:
        before = []
        for phrase in output.split(";"):
            stems = [_stem(word) for word in phrase.strip().lower().split(" ")]
            if stems != [""]:
                written += 1
                again += stems in before
                before.append(stems)
    every = [stems for line in lines for stems in _counted(line)]
    distinct = []
    for stems in every:
        if stems not in distinct:
            distinct.append(stems)
    known = [stems for phrase in train for stems, _ in _distinct(phrase)]
    new = [stems not in known for stems in every]
    judged = [
        stems in _wanted(post)
        for post, line in zip(posts, lines, strict=True)
        for stems in _counted(line)
        if _wanted(post) and stems not in known
    ]
    return {
        "words": sum(len(output.split()) for output in outputs) / len(outputs),
        "repeats": again / written,
        "diversity": len(distinct) / len(every),
        "novelty": sum(new) / len(new),
        "novel_precision": sum(judged) / len(judged),
        "ece": naive_ece(posts, lines, logprobs),
    }


def naive_ece(posts, lines, logprobs, bins=10):
    judged = []
    for post, line, own in zip(posts, lines, logprobs, strict=True):
        before = []
        for phrase, logprob in zip(line.split(";"), own, strict=True):
            for stems in _counted(phrase):
                if _wanted(post) and stems not in before:
                    judged.append((math.exp(logprob), stems in _wanted(post)))
                before.append(stems)
    error = 0.0
    for n in range(bins):
        low, high = n / bins, (n + 1) / bins
        here = [(c, right) for c, right in judged if low < c <= high or c == low == 0]
        if here:
            error += abs(sum(right for _, right in here) - sum(c for c, _ in here)) / len(judged)
    return error


def naive_semantic(posts, lines, embed):
    """Precision, recall and F1 from `embed(phrase)`, a list of numbers."""

    def similarity(a, b):
        if [_stem(word) for word in a.split(" ")] == [_stem(word) for word in b.split(" ")]:
            return 1.0
        x, y = embed(a), embed(b)
        dot = sum(p * q for p, q in zip(x, y, strict=True))
        return dot / math.sqrt(sum(p * p for p in x)) / math.sqrt(sum(q * q for q in y))

    precision, recall = [], []
    for post, line in zip(posts, lines, strict=True):
        targets = [raw for stems, raw in _distinct(";".join(post.keyphrases)) if stems != [""]]
        predicted = [raw for stems, raw in _distinct(line) if stems in _counted(line)]
        if targets:
            found = [[similarity(p, t) for t in targets] for p in predicted]
            precision.append(sum(map(max, found)) / len(predicted) if predicted else 0.0)
            best = [max(row[i] for row in found) if found else 0.0 for i in range(len(targets))]
            recall.append(sum(best) / len(targets))
    p, r = sum(precision) / len(precision), sum(recall) / len(recall)
    return {"n": len(precision), "precision": p, "recall": r, "f1": 2 * p * r / (p + r)}
