"""What a user of Hugging Face does to get from text to masked samples, as run_mlm does it: `datasets.map` with the fast
tokenizer, `datasets.map` that joins and cuts into blocks, then a shuffled DataLoader with DataCollatorForLanguageModeling.
All on one core.

Usage: data.py SPEC (JSON, see data.rs). Each line on stdin asks for it once more from the text on; the answer is one line
of JSON with the seconds of both maps, those of the loader, and the tokens of all blocks.
"""

import json
import os
import sys
import time

spec = json.loads(sys.argv[1])
os.sched_setaffinity(0, {spec["core"]})
os.environ["RAYON_NUM_THREADS"] = "1"

import torch
from datasets import Dataset, disable_progress_bars
from torch.utils.data import DataLoader
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast
from transformers.utils import logging

torch.set_num_threads(1)
disable_progress_bars()
# Documents are longer than any sequence here, and are cut afterwards.
logging.set_verbosity_error()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_file=spec["tokenizer"],
    unk_token="[UNK]",
    pad_token="[PAD]",
    cls_token="[CLS]",
    sep_token="[SEP]",
    mask_token="[MASK]",
)
texts = Dataset.from_parquet(spec["corpus"])
length = spec["sequence_length"]
collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=spec["mask_rate"])


def encode(rows):
    return tokenizer(rows["text"], return_special_tokens_mask=True)


def cut(rows):
    joined = {name: sum(lists, []) for name, lists in rows.items()}
    whole = len(joined["input_ids"]) // length * length
    return {name: [ids[at : at + length] for at in range(0, whole, length)] for name, ids in joined.items()}


for _ in sys.stdin:
    start = time.perf_counter()
    encoded = texts.map(encode, batched=True, remove_columns=texts.column_names, load_from_cache_file=False)
    blocks = encoded.map(cut, batched=True, load_from_cache_file=False)
    mapped = time.perf_counter()
    tokens = 0
    for batch in DataLoader(blocks, batch_size=spec["batch"], shuffle=True, collate_fn=collator):
        tokens += batch["input_ids"].numel()
    loaded = time.perf_counter()
    answer = {"map_seconds": mapped - start, "load_seconds": loaded - mapped, "tokens": tokens}
    print(json.dumps(answer), flush=True)
