"""Pretraining from text to checkpoints with Hugging Face's Trainer, as run_mlm does it: BertForMaskedLM, blocks by
`datasets.map`, DataCollatorForLanguageModeling, the fused AdamW, float32, a checkpoint every 100 steps, and the
held-out loss at the end. Logging is the Trainer's own, every 500 steps.

Usage: pipeline.py SPEC (JSON, see pipeline.rs). A line on stdin starts it; the answer is one line of JSON with the
seconds until the blocks were made, until training was over, and until the held-out loss was known, that loss in nats, and
where the weights lie afterwards. Starting Python and making the model are not counted.
"""

import json
import sys
import time
from pathlib import Path

from answers import answer

import torch
from datasets import Dataset
from run_mlm import blocks_of, tokenizer_of
from transformers import BertConfig, BertForMaskedLM, DataCollatorForLanguageModeling, Trainer, TrainingArguments

spec = json.loads(sys.argv[1])
torch.set_num_threads(spec["threads"])
torch.manual_seed(1)
model = BertForMaskedLM(
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
)
tokenizer = tokenizer_of(spec["tokenizer"])
arguments = TrainingArguments(
    output_dir="pretrained",
    per_device_train_batch_size=spec["batch"],
    per_device_eval_batch_size=spec["batch"],
    max_steps=spec["steps"],
    learning_rate=spec["learning_rate"],
    adam_beta2=spec["beta2"],
    adam_epsilon=spec["epsilon"],
    weight_decay=spec["weight_decay"],
    max_grad_norm=spec["clip_norm"],
    lr_scheduler_type=spec["scheduler"],
    warmup_steps=spec["warmup_steps"],
    save_steps=spec["checkpoint_every"],
    save_total_limit=2,
    report_to="none",
    disable_tqdm=True,
    use_cpu=True,
)
texts = {part: Dataset.from_parquet(spec[part]) for part in ("train", "held_out")}

for _ in sys.stdin:
    start = time.perf_counter()
    train, held_out = (blocks_of(texts[part], tokenizer, spec["sequence_length"]) for part in ("train", "held_out"))
    made = time.perf_counter()
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=held_out,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=spec["mask_rate"]),
    )
    trainer.train()
    trained = time.perf_counter()
    loss = trainer.evaluate()["eval_loss"]
    over = time.perf_counter()
    trainer.save_model("final")
    weights = str(Path("final/model.safetensors").absolute())
    answer(made=made - start, trained=trained - start, over=over - start, loss=loss, weights=weights)
