"""Fine-tuning steps of Hugging Face's Trainer: BertForSequenceClassification, the fused AdamW, float32, gradients
clipped at 1, as TrainingArguments have it unless said otherwise. The samples are tokenised already; the Trainer's
loader and DataCollatorWithPadding make batches of them.

Usage: finetune.py SPEC (JSON, see finetune.rs). Each line on stdin is a number of steps; the answer is one line of JSON
with the seconds of each step, from the end of the one before.
"""

import json
import sys
import time

from answers import answer

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

spec = json.loads(sys.argv[1])
torch.set_num_threads(spec["threads"])
torch.manual_seed(1)
model = BertForSequenceClassification(
    BertConfig(
        vocab_size=spec["vocabulary"],
        hidden_size=spec["hidden"],
        num_hidden_layers=spec["layers"],
        num_attention_heads=spec["heads"],
        intermediate_size=spec["intermediate"],
        max_position_embeddings=spec["max_positions"],
        hidden_dropout_prob=spec["dropout"],
        attention_probs_dropout_prob=spec["attention_dropout"],
        num_labels=2,
    )
)


class Samples(torch.utils.data.Dataset):
    def __init__(self):
        shortest, longest = spec["lengths"]
        lengths = torch.randint(shortest, longest + 1, (4096,)).tolist()
        self.rows = [
            {
                "input_ids": torch.randint(5, spec["vocabulary"], (length,)).tolist(),
                "attention_mask": [1] * length,
                "label": number % 2,
            }
            for number, length in enumerate(lengths)
        ]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


class Turns(TrainerCallback):
    """Takes a number of steps at a time."""

    def __init__(self):
        self.left = 0
        self.seconds = []

    def on_train_begin(self, *arguments, **named):
        self.wait()

    def on_step_end(self, *arguments, **named):
        now = time.perf_counter()
        self.seconds.append(now - self.before)
        self.before = now
        self.left -= 1
        if self.left == 0:
            answer(seconds=self.seconds)
            self.wait()

    def wait(self):
        line = sys.stdin.readline()
        if not line:
            sys.exit(0)
        self.left = int(line)
        self.seconds = []
        self.before = time.perf_counter()


tokenizer = PreTrainedTokenizerFast(tokenizer_file=spec["tokenizer"], pad_token="[PAD]")
arguments = TrainingArguments(
    output_dir="finetuned",
    per_device_train_batch_size=spec["batch"],
    max_steps=1_000_000,
    learning_rate=1e-4,
    save_strategy="no",
    report_to="none",
    disable_tqdm=True,
    use_cpu=True,
)
Trainer(
    model=model,
    args=arguments,
    train_dataset=Samples(),
    data_collator=DataCollatorWithPadding(tokenizer),
    callbacks=[Turns()],
).train()
