"""Loads every folder under DIR with transformers: no missing, unexpected or mismatched key, and the same outputs.

    TRIREME_EXPORT_DIR=DIR cargo test -p golden --test export
    python tests/golden/check_export.py DIR

A folder may hold `expected.safetensors` (ids, mask, positions, outputs; the test above writes it); then the outputs are
compared within 1e-5. A folder without it is only loaded. Exits 1 and says what is wrong at the first bad folder.
Needs torch, transformers and safetensors.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file


def main(root):
    folders = [root] if (root / "config.json").exists() else sorted(p.parent for p in root.glob("*/config.json"))
    if not folders:
        sys.exit(f"{root}: no folder with a config.json")
    for folder in folders:
        print(f"{folder.name}: {check(folder)}")
    print(f"{len(folders)} folders load with no missing and no unexpected key")


def check(folder):
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model, info = getattr(transformers, name).from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager"
    )
    for key in ["missing_keys", "unexpected_keys", "mismatched_keys"]:
        if info[key]:
            sys.exit(f"{folder}: {name}: {key}: {sorted(info[key])}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("The ship sailed.")["input_ids"]
    for role, at in [("cls_token_id", 0), ("sep_token_id", -1)]:
        if ids[at] != getattr(tokenizer, role):
            sys.exit(f"{folder}: the tokenizer's {role} is not where it belongs: {ids}")
    if len(tokenizer) > model.config.vocab_size or tokenizer.pad_token_id != model.config.pad_token_id:
        sys.exit(f"{folder}: tokenizer and config.json disagree")
    with torch.no_grad():
        model.eval()(**tokenizer(["The ship sailed.", "Wind."], padding=True, return_tensors="pt"))
    expected = folder / "expected.safetensors"
    if not expected.exists():
        return f"{name} loads"
    case = load_file(expected)
    with torch.no_grad():
        out = model(input_ids=case["ids"], attention_mask=case["mask"])
    if "MaskedLM" in name or "PreTraining" in name:
        logits = out.logits if "logits" in out else out.prediction_logits
        got = logits.reshape(-1, logits.shape[-1])[case["positions"]]
    elif name.endswith("SequenceClassification"):
        got = out.logits
    elif name.endswith("TokenClassification"):
        got = out.logits[:, :4]
    else:
        got = out.last_hidden_state[:, :4]
    off = (got - case["outputs"]).abs().max().item()
    if not off <= 1e-5:
        sys.exit(f"{folder}: {name}: outputs are off by {off:g}")
    return f"{name} loads, outputs within {off:.1e}"


main(Path(sys.argv[1]))
