"""What a user gets from PyTorch without further work: Hugging Face's BertForPreTraining in a plain loop with the fused
AdamW, float32, eager, dropout 0.1, all sequences full. Batches are ready in memory: reading and tokenising are free.

Usage: peer.py SPEC (JSON, see peer.rs). Each line on stdin is a number of steps; the answer is one line of JSON with
the seconds of each step.
"""

import json
import sys
import time

import torch
from transformers import BertConfig, BertForPreTraining

spec = json.loads(sys.argv[1])
torch.set_num_threads(spec["threads"])
torch.manual_seed(1)
model = BertForPreTraining(
    BertConfig(
        vocab_size=spec["vocabulary"],
        hidden_size=spec["hidden"],
        num_hidden_layers=spec["layers"],
        num_attention_heads=spec["heads"],
        intermediate_size=spec["intermediate"],
        max_position_embeddings=spec["max_positions"],
    )
).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
shape = (spec["batch"], spec["sequence_length"])


def batch():
    ids = torch.randint(5, spec["vocabulary"], shape)
    labels = torch.where(torch.rand(shape) < 0.15, ids, -100)
    segments = (torch.arange(shape[1]) >= shape[1] // 2).long().expand(shape)
    order = torch.randint(0, 2, shape[:1])
    return dict(input_ids=ids, token_type_ids=segments, labels=labels, next_sentence_label=order)


batches = [batch() for _ in range(4)]
done = 0
for line in sys.stdin:
    seconds = []
    for _ in range(int(line)):
        start = time.perf_counter()
        loss = model(**batches[done % len(batches)]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        seconds.append(time.perf_counter() - start)
        done += 1
    print(json.dumps({"seconds": seconds}), flush=True)
