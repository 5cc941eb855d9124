"""Loads every folder under DIR with transformers: no missing, unexpected or mismatched key, and the same outputs.

    TRIREME_EXPORT_DIR=DIR cargo nextest run -p golden -p e2e -E 'binary(export) + binary(finetune)'
    python tests/golden/check_export.py DIR

A folder may hold `expected.safetensors` (ids, mask, positions, outputs; tests/golden/tests/export.rs writes it); then the
outputs are compared within 1e-5. It may hold `predictions.jsonl`, what `worker predict --json` made of some texts
(tests/e2e/tests/finetune.rs, with a folder of `coordinator checkpoints export`); then transformers must come to the same
from the texts, and the vocabulary must have no row without a token. Other folders are only loaded. The one model that
transformers lacks is a BERT classifier that pools by the mean: it is computed from its parts, as the export's warning
tells a user to. An embedder pools by the mean too and lacks the pooler for that reason. Exits 1 and says what is wrong at the first bad folder. Needs torch, transformers and safetensors.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

POOLER = {
    "bert": {"bert.pooler.dense.weight", "bert.pooler.dense.bias"},
    "albert": {"albert.pooler.weight", "albert.pooler.bias"},
}
# A classifier of RoBERTa's has no pooler, the bare encoder has one.
ENCODERS_POOLER = POOLER | {"roberta": {"roberta.pooler.dense.weight", "roberta.pooler.dense.bias"}}


def main(root):
    folders = [root] if (root / "config.json").exists() else sorted(p.parent for p in root.glob("*/config.json"))
    if not folders:
        sys.exit(f"{root}: no folder with a config.json")
    for folder in folders:
        print(f"{folder.name}: {check(folder)}")
    print(f"{len(folders)} folders load with no missing and no unexpected key")


def check(folder):
    config = json.loads((folder / "config.json").read_text())
    name = config["architectures"][0]
    by_mean = (
        name.endswith("ForSequenceClassification")
        and config.get("classifier_pooling") == "mean"
        and config["model_type"] != "modernbert"
    )
    model, info = getattr(transformers, name).from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager"
    )
    expected_missing = set()
    if by_mean:
        expected_missing = POOLER.get(config["model_type"], set())
    elif config.get("embedding_pooling") == "mean":
        # The bare encoder's keys have no prefix.
        expected_missing = {key.partition(".")[2] for key in ENCODERS_POOLER.get(config["model_type"], set())}
    for key, known in [("missing_keys", expected_missing), ("unexpected_keys", set()), ("mismatched_keys", set())]:
        if set(info[key]) != known:
            sys.exit(f"{folder}: {name}: {key}: {sorted(info[key])}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("The ship sailed.")["input_ids"]
    for role, at in [("cls_token_id", 0), ("sep_token_id", -1)]:
        if ids[at] != getattr(tokenizer, role):
            sys.exit(f"{folder}: the tokenizer's {role} is not where it belongs: {ids}")
    if len(tokenizer) > model.config.vocab_size or tokenizer.pad_token_id != model.config.pad_token_id:
        sys.exit(f"{folder}: tokenizer and config.json disagree")
    model.eval()
    with torch.no_grad():
        model(**tokenizer(["The ship sailed.", "Wind."], padding=True, return_tensors="pt"))
        told = f"{name}{' that pools by the mean' if by_mean else ''} loads"
        if (folder / "expected.safetensors").exists():
            told += f", outputs within {compare_outputs(folder, model, by_mean):.1e}"
        if (folder / "predictions.jsonl").exists():
            if len(tokenizer) != model.config.vocab_size:
                sys.exit(f"{folder}: {model.config.vocab_size} rows for {len(tokenizer)} tokens")
            told += f", predictions within {compare_predictions(folder, model, tokenizer, by_mean):.1e}"
    return told


def class_logits(model, inputs, by_mean):
    if not by_mean:
        return model(**inputs).logits
    hidden = model.base_model(**inputs).last_hidden_state
    real = inputs["attention_mask"].unsqueeze(2).to(hidden.dtype)
    mean = (hidden * real).sum(1) / real.sum(1)
    kind = model.config.model_type
    if kind in ("electra", "roberta"):
        return model.classifier(mean.unsqueeze(1))
    return model.classifier(torch.relu(model.pre_classifier(mean)) if kind == "distilbert" else mean)


def compare_outputs(folder, model, by_mean):
    name = type(model).__name__
    case = load_file(folder / "expected.safetensors")
    inputs = {"input_ids": case["ids"], "attention_mask": case["mask"]}
    if name.endswith("SequenceClassification"):
        got = class_logits(model, inputs, by_mean)
    else:
        out = model(**inputs)
        if name == "ElectraForPreTraining":
            got = out.logits[:, :4]
        elif "MaskedLM" in name or "PreTraining" in name:
            logits = out.logits if "logits" in out else out.prediction_logits
            got = logits.reshape(-1, logits.shape[-1])[case["positions"]]
        elif name.endswith("TokenClassification"):
            got = out.logits[:, :4]
        elif name.endswith("QuestionAnswering"):
            got = torch.stack([out.start_logits, out.end_logits], 2)[:, :4]
        else:
            got = out.last_hidden_state[:, :4]
    off = (got - case["outputs"]).abs().max().item()
    if not off <= 1e-5:
        sys.exit(f"{folder}: {name}: outputs are off by {off:g}")
    return off


def compare_predictions(folder, model, tokenizer, by_mean):
    """What transformers makes of a text, from the text, as somebody would use the folder."""
    worst = 0.0
    for line in (folder / "predictions.jsonl").read_text().splitlines():
        wanted = json.loads(line)
        if "tags" in wanted:
            words = [tag["word"] for tag in wanted["tags"]]
            inputs = tokenizer(words, is_split_into_words=True, return_tensors="pt")
            scores = model(**inputs).logits[0].softmax(-1)
            places = inputs.word_ids()
            firsts = [places.index(word) for word in range(len(words))]
            pairs = [(scores[at], tag["tag"], tag["score"]) for at, tag in zip(firsts, wanted["tags"])]
        else:
            texts = [wanted["text"]] + ([wanted["pair"]] if "pair" in wanted else [])
            inputs = tokenizer(*texts, return_tensors="pt")
            scores = class_logits(model, inputs, by_mean)[0].softmax(-1)
            pairs = [(scores, label, score) for label, score in wanted["scores"].items()]
        for scores, label, score in pairs:
            off = abs(scores[model.config.label2id[label]].item() - score)
            worst = max(worst, off)
            if not off <= 1e-4:
                sys.exit(f"{folder}: {label} has {score:g}, but {score - off:g} or {score + off:g} here: {line}")
    return worst


main(Path(sys.argv[1]))
