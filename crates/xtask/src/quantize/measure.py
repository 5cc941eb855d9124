"""Runs ONNX files of one classifier on held-out texts, in turn, batch after batch. Prints a JSON list, one object for each
file: size, milliseconds a text, right answers, answers as the first file has them, greatest difference of a probability.

    python measure.py '{"variants": [{"name", "path"}], "test": FILE.jsonl, "tokenizer": FOLDER, "length": 128}'
"""

import json
import os
import statistics
import sys
import time

import numpy
import onnxruntime
import transformers

BATCH = 16


def softmax(logits):
    powers = numpy.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def main(spec):
    tokenizer = transformers.AutoTokenizer.from_pretrained(spec["tokenizer"])
    with open(os.path.join(spec["tokenizer"], "config.json")) as file:
        ids = json.load(file)["label2id"]
    with open(spec["test"]) as file:
        rows = [json.loads(line) for line in file]
    # Of like length together, so that little is padded.
    rows.sort(key=lambda row: len(row["text"]))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions = [
        onnxruntime.InferenceSession(it["path"], options, providers=["CPUExecutionProvider"]) for it in spec["variants"]
    ]
    seconds, probabilities = [[] for _ in sessions], [[] for _ in sessions]
    for first in range(0, len(rows), BATCH):
        batch = rows[first : first + BATCH]
        texts = [[row["text"] for row in batch]]
        if "pair" in batch[0]:
            texts.append([row["pair"] for row in batch])
        given = tokenizer(*texts, padding=True, truncation=True, max_length=spec["length"], return_tensors="np")
        for index, session in enumerate(sessions):
            wanted = {it.name: given[it.name].astype(numpy.int64) for it in session.get_inputs()}
            began = time.perf_counter()
            (logits,) = session.run(["logits"], wanted)
            seconds[index].append((time.perf_counter() - began) / len(batch))
            probabilities[index].append(softmax(logits))
    right = numpy.array([ids[row["label"]] for row in rows])
    float32 = numpy.concatenate(probabilities[0])
    told = []
    for variant, times, found in zip(spec["variants"], seconds, probabilities):
        found = numpy.concatenate(found)
        told.append(
            {
                "name": variant["name"],
                "bytes": os.path.getsize(variant["path"]),
                "ms": 1000 * statistics.median(times),
                "correct": int((found.argmax(1) == right).sum()),
                "same": int((found.argmax(1) == float32.argmax(1)).sum()),
                "off": float(abs(found - float32).max()),
            }
        )
    print(json.dumps(told))


main(json.loads(sys.argv[1]))
