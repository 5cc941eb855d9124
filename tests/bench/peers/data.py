"""What a user of Hugging Face does to get from text to masked samples: blocks as run_mlm makes them, then a shuffled
DataLoader with DataCollatorForLanguageModeling. All on one core.

Usage: data.py SPEC (JSON, see data.rs). Each line on stdin asks for it once more from the text on; the answer is one
line of JSON with the seconds of the blocks, those of the loader, and the tokens of all blocks.
"""

import json
import os
import sys
import time

from answers import answer

spec = json.loads(sys.argv[1])
os.sched_setaffinity(0, {spec["core"]})
os.environ.update(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")

import torch
from datasets import Dataset
from run_mlm import blocks_of, tokenizer_of
from torch.utils.data import DataLoader
from transformers import DataCollatorForLanguageModeling

torch.set_num_threads(1)
tokenizer = tokenizer_of(spec["tokenizer"])
texts = Dataset.from_parquet(spec["corpus"])
collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=spec["mask_rate"])

for _ in sys.stdin:
    start = time.perf_counter()
    blocks = blocks_of(texts, tokenizer, spec["sequence_length"])
    mapped = time.perf_counter()
    tokens = 0
    for batch in DataLoader(blocks, batch_size=spec["batch"], shuffle=True, collate_fn=collator):
        tokens += batch["input_ids"].numel()
    loaded = time.perf_counter()
    answer(map_seconds=mapped - start, load_seconds=loaded - mapped, tokens=tokens)
