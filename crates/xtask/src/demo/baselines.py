"""The commonest class and a linear SVM on the examples of one size: `baselines.py SPEC`, a JSON object; answers another.

Texts: TF-IDF of words and pairs of words (of characters in Chinese); of two texts, each has its own. Tags: the word, its
neighbours, its ends. Both with scikit-learn's LinearSVC as it comes. Answers have neither: there are "no answer" to every
question, and the sentence that is nearest to the question by TF-IDF, both by SQuAD's F1, of 100. Choices: what guessing gives,
the choice that is nearest to text and question by TF-IDF, and the one that a linear SVM is surest of, which sees each choice
with its text and learns whether it is right.
"""

import json
import re
import string
import sys
from collections import Counter, defaultdict

from scipy.sparse import hstack
from sklearn.feature_extraction import FeatureHasher
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

# Words of training sentences that the SVM sees: it does not get better soon, but slow.
WORDS = 60_000


def texts(spec):
    rows = {part: [json.loads(line) for line in open(spec[part], encoding="utf-8")] for part in ("train", "test")}
    truth = [row["label"] for row in rows["test"]]
    commonest = Counter(row["label"] for row in rows["train"]).most_common(1)[0][0]
    kind = dict(analyzer="char", ngram_range=(1, 3)) if spec["characters"] else dict(ngram_range=(1, 2))
    features = {"train": [], "test": []}
    for key in [key for key in ("text", "pair") if key in rows["train"][0]]:
        vectorizer = TfidfVectorizer(sublinear_tf=True, **kind)
        features["train"].append(vectorizer.fit_transform(row[key] for row in rows["train"]))
        features["test"].append(vectorizer.transform(row[key] for row in rows["test"]))
    svm = LinearSVC().fit(hstack(features["train"]), [row["label"] for row in rows["train"]])
    predicted = svm.predict(hstack(features["test"]))
    accuracy = lambda guesses: sum(a == b for a, b in zip(truth, guesses)) / len(truth)
    return {"commonest class": accuracy([commonest] * len(truth)), "TF-IDF + SVM": accuracy(predicted)}


def sentences(path):
    with open(path, encoding="utf-8") as file:
        return [[tuple(word.rsplit("/", 1)) for word in line.split(" ")] for line in file.read().split("\n") if line]


def features(words):
    for index, word in enumerate(words):
        found = {f"word={word}": 1, f"end={word[-2:]}": 1, f"end3={word[-3:]}": 1, f"start={word[:2]}": 1}
        for offset in (-2, -1, 1, 2):
            place = index + offset
            near = words[place] if 0 <= place < len(words) else ""
            found[f"{offset}={near}"] = 1
        yield found


def tagged(spec):
    train, test = sentences(spec["train"]), sentences(spec["test"])
    counts = defaultdict(Counter)
    for word, tag in (pair for sentence in train for pair in sentence):
        counts[word][tag] += 1
    commonest = sum(counts.values(), Counter()).most_common(1)[0][0]
    most = {word: tags.most_common(1)[0][0] for word, tags in counts.items()}
    by_word = [[most.get(word, commonest) for word, _ in sentence] for sentence in test]
    hasher = FeatureHasher(1 << 20)
    short, words = [], 0
    for sentence in train:
        if words >= WORDS:
            break
        short.append(sentence)
        words += len(sentence)
    rows = [row for sentence in short for row in features([word for word, _ in sentence])]
    svm = LinearSVC().fit(hasher.transform(rows), [tag for sentence in short for _, tag in sentence])
    flat = list(svm.predict(hasher.transform([row for s in test for row in features([word for word, _ in s])])))
    by_svm = []
    for sentence in test:
        by_svm.append(flat[: len(sentence)])
        del flat[: len(sentence)]
    truth = [[tag for _, tag in sentence] for sentence in test]
    if spec["metric"] == "eval/entity_f1":
        from seqeval.metrics import f1_score

        score = lambda guesses: float(f1_score(truth, guesses))
    else:
        total = sum(map(len, truth))
        score = lambda guesses: sum(a == b for s, g in zip(truth, guesses) for a, b in zip(s, g)) / total
    return {"commonest tag of each word": score(by_word), "linear SVM": score(by_svm)}


def bag(text):
    plain = "".join(c for c in text.lower() if c not in string.punctuation)
    return Counter(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def f1(truth, guess):
    """As SQuAD's script counts it; "" is no answer."""
    truth, guess = bag(truth), bag(guess)
    if not truth or not guess:
        return float(truth == guess)
    same = sum((truth & guess).values())
    return 2 * same / (sum(truth.values()) + sum(guess.values()))


def answers(spec):
    def questions(part):
        with open(spec[part], encoding="utf-8") as file:
            paragraphs = [paragraph for row in json.load(file)["data"] for paragraph in row["paragraphs"]]
        return [(paragraph["context"], question) for paragraph in paragraphs for question in paragraph["qas"]]

    vectorizer = TfidfVectorizer(sublinear_tf=True).fit([passage for passage, _ in questions("train")])
    nothing, nearest = [], []
    for passage, question in questions("test"):
        truth = question["answers"][0]["text"] if question["answers"] else ""
        parts = re.split(r"(?<=[.!?])\s+", passage)
        likeness = vectorizer.transform(parts) @ vectorizer.transform([question["question"]]).T
        nothing.append(f1(truth, ""))
        nearest.append(f1(truth, parts[likeness.toarray().argmax()]))
    mean = lambda values: 100 * sum(values) / len(values)
    return {"no answer": mean(nothing), "nearest sentence": mean(nearest)}


def choices(spec):
    rows = {part: [json.loads(line) for line in open(spec[part], encoding="utf-8")] for part in ("train", "test")}
    for row in rows["train"] + rows["test"]:
        row["choices"] = row["choices"]["text"]
    kind = dict(analyzer="char", ngram_range=(1, 3)) if spec["characters"] else dict(ngram_range=(1, 2))
    asked = lambda row: f"{row['text']} {row['question']}"
    flat = {part: [(asked(row), choice) for row in rows[part] for choice in row["choices"]] for part in rows}
    right = [number == row["right"] for row in rows["train"] for number in range(len(row["choices"]))]
    both = TfidfVectorizer(sublinear_tf=True, **kind).fit(text for pair in flat["train"] for text in pair)
    of = lambda part, side: both.transform([pair[side] for pair in flat[part]])
    likeness = lambda part: of(part, 0).multiply(of(part, 1))
    near = likeness("test").sum(axis=1).A1.tolist()
    features = {part: hstack([of(part, 0), of(part, 1), likeness(part)]) for part in rows}
    sure = LinearSVC().fit(features["train"], right).decision_function(features["test"]).tolist()

    def accuracy(scores):
        hits, at = 0, 0
        for row in rows["test"]:
            own = scores[at : at + len(row["choices"])]
            hits += own.index(max(own)) == row["right"]
            at += len(own)
        return hits / len(rows["test"])

    guess = sum(1 / len(row["choices"]) for row in rows["test"]) / len(rows["test"])
    return {"guessing": guess, "nearest choice": accuracy(near), "TF-IDF + SVM": accuracy(sure)}


spec = json.loads(sys.argv[1])
print(json.dumps({"texts": texts, "tagged": tagged, "answers": answers, "choices": choices}[spec["kind"]](spec)))
