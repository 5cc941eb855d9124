"""What a user gets from PyTorch: Hugging Face's BertForPreTraining in a plain loop with the fused AdamW, all sequences
full. Batches are ready in memory: reading and tokenising are free. Gradients are not clipped.

"device" is torch's name of one; "precision" float32, or bfloat16 by autocast.

mode "eager": as it is. "compiled": through torch.compile. "masked": as it is, but a few lines of the user's own take
the masked positions out of the encoder's output and run the vocabulary's head on these alone.

With WORLD_SIZE in its environment it is one of several processes, as torchrun starts them, with DistributedDataParallel
over Gloo; "batch" is then each one's own.

Usage: step.py SPEC (JSON, see step.rs). Each line on stdin is a number of steps; the answer is one line of JSON with
the seconds of each step.
"""

import json
import os
import sys
import time

from answers import answer

import torch
from torch.nn.functional import cross_entropy
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
        hidden_dropout_prob=spec["dropout"],
        attention_probs_dropout_prob=spec["attention_dropout"],
    )
).to(spec["device"]).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
shape = (spec["batch"], spec["sequence_length"])
run = torch.compile(model) if spec["mode"] == "compiled" else model
if "WORLD_SIZE" in os.environ:
    torch.distributed.init_process_group("gloo")
    run = torch.nn.parallel.DistributedDataParallel(run)


def batch():
    ids = torch.randint(5, spec["vocabulary"], shape)
    # As many in each sequence as ours has, anywhere in it.
    positions = torch.rand(shape).argsort(dim=1)[:, : spec["predicted"]].sort(dim=1).values
    labels = torch.full(shape, -100).scatter(1, positions, ids.gather(1, positions))
    segments = (torch.arange(shape[1]) >= shape[1] // 2).long().expand(shape).contiguous()
    order = torch.randint(0, 2, shape[:1])
    flat = (positions + torch.arange(shape[0])[:, None] * shape[1]).flatten()
    whole = dict(input_ids=ids, token_type_ids=segments, labels=labels, next_sentence_label=order)
    masked = labels.flatten()[flat]
    to = lambda tensor: tensor.to(spec["device"])
    return {name: to(tensor) for name, tensor in whole.items()}, to(flat), to(masked)


def loss_of(whole, flat, masked):
    if spec["mode"] != "masked":
        return run(**whole).loss
    encoded = model.bert(whole["input_ids"], token_type_ids=whole["token_type_ids"])
    chosen = encoded.last_hidden_state.flatten(0, 1).index_select(0, flat)
    order = model.cls.seq_relationship(encoded.pooler_output)
    return cross_entropy(model.cls.predictions(chosen), masked) + cross_entropy(order, whole["next_sentence_label"])


batches = [batch() for _ in range(4)]
done = 0
for line in sys.stdin:
    seconds = []
    for _ in range(int(line)):
        start = time.perf_counter()
        with torch.autocast(spec["device"], torch.bfloat16, enabled=spec["precision"] == "bfloat16"):
            loss = loss_of(*batches[done % len(batches)])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        seconds.append(time.perf_counter() - start)
        done += 1
    answer(seconds=seconds)
