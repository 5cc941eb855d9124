"""Loads every folder under DIR with transformers: no missing, unexpected or mismatched key, and the same outputs.

    TRIREME_EXPORT_DIR=DIR cargo nextest run -p golden -p e2e -E 'binary(export) + binary(finetune)'
    python tests/golden/check_export.py DIR

A folder may hold `expected.safetensors` (ids, mask, positions, outputs; tests/golden/tests/export.rs writes it); then the
outputs are compared within 1e-5. It may hold `predictions.jsonl`, what `worker predict --json` made of some texts
(tests/e2e/tests/finetune.rs, with a folder of `coordinator checkpoints export`); then transformers must come to the same
from the texts, and the vocabulary must have no row without a token. Other folders are only loaded. The one model that
transformers lacks is a BERT classifier that pools by the mean: it is computed from its parts, as the export's warning
tells a user to. An embedder pools by the mean too and lacks the pooler for that reason.

It may hold `model.onnx` and `model_int8.onnx`: onnxruntime must make of a padded batch what transformers makes of it,
within 1e-4, and in int8 near it. Exits 1 and says what is wrong at the first bad folder. Needs torch, transformers,
safetensors and onnxruntime.
"""

import json
import sys
from pathlib import Path

import onnxruntime
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
        two = tokenizer(["The ship sailed.", "Wind."], padding=True, return_tensors="pt")
        model(**(as_choices(two, 2) if name.endswith("ForMultipleChoice") else two))
        told = f"{name}{' that pools by the mean' if by_mean else ''} loads"
        if (folder / "expected.safetensors").exists():
            told += f", outputs within {compare_outputs(folder, model, by_mean):.1e}"
        if (folder / "predictions.jsonl").exists():
            if len(tokenizer) != model.config.vocab_size:
                sys.exit(f"{folder}: {model.config.vocab_size} rows for {len(tokenizer)} tokens")
            told += f", predictions within {compare_predictions(folder, model, tokenizer, by_mean):.1e}"
        if (folder / "model.onnx").exists():
            told += f", onnxruntime within {compare_onnx(folder / 'model.onnx', model, tokenizer, by_mean)[0]:.1e}"
        if (folder / "model_int8.onnx").exists():
            told += f", in int8 off by {compare_onnx(folder / 'model_int8.onnx', model, tokenizer, by_mean)[1]:.1%}"
    return told


def as_choices(inputs, count):
    """Rows that follow each other as the choices of one sample, so many each."""
    return {key: rows.view(-1, count, rows.shape[1]) for key, rows in inputs.items()}


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
    elif name.endswith("ForMultipleChoice"):
        got = model(**as_choices(inputs, 2)).logits
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


def compare_onnx(path, model, tokenizer, by_mean):
    """The greatest difference, and the root mean square of all of them as a share of the outputs' own deviation."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    first = ["The ship sailed across the sea.", "Wind.", "The old sailor"]
    second = ["A small house.", "The ship sailed.", "Sea."]
    has_choices = type(model).__name__.endswith("ForMultipleChoice")
    if has_choices:
        # Each with each, so that there are three samples of three choices.
        first, second = [text for text in first for _ in second], second * len(first)
    # Without segments in the model, pairs would only be longer texts.
    most = model.config.max_position_embeddings
    if model.config.model_type == "roberta":
        # The first positions are the padding's.
        most -= model.config.pad_token_id + 1
    inputs = dict(tokenizer(first, second, padding=True, truncation=True, max_length=most, return_tensors="pt"))
    if inputs["attention_mask"].all():
        sys.exit(f"{path}: there is no padding among the texts that are compared")
    if has_choices:
        inputs = as_choices(inputs, 3)
    wanted = {given.name for given in session.get_inputs()}
    given = {name: inputs[name].numpy() for name in wanted}
    outputs = dict(zip([output.name for output in session.get_outputs()], session.run(None, given)))
    mask = inputs["attention_mask"]
    inputs = {name: inputs[name] for name in wanted}
    out = model.base_model(**inputs) if by_mean else model(**inputs)
    worst, off, spread = 0.0, [], []
    for name, got in outputs.items():
        if name == "logits" and by_mean:
            right = class_logits(model, inputs, by_mean)
        elif name == "sentence_embedding":
            real = mask.unsqueeze(2).float()
            mean = (out.last_hidden_state * real).sum(1) / real.sum(1)
            right = mean / mean.norm(dim=1, keepdim=True)
        else:
            right = out[name]
        got = torch.from_numpy(got)
        if got.shape != right.shape:
            sys.exit(f"{path}: {name} is {list(got.shape)} in onnxruntime, and {list(right.shape)} in transformers")
        if got.shape[:2] == mask.shape:
            # What padding gets says nothing.
            got, right = got[mask == 1], right[mask == 1]
        worst = max(worst, (got - right).abs().max().item())
        off.append(((got - right) ** 2).mean().item())
        spread.append(((right - right.mean()) ** 2).mean().item())
    share = max((a / b) ** 0.5 for a, b in zip(off, spread))
    if path.name == "model.onnx" and not worst <= 1e-4:
        sys.exit(f"{path}: outputs are off by {worst:g}")
    # A choice is one number: there are only nine, and nothing evens out.
    if not share <= (0.3 if has_choices else 0.15):
        sys.exit(f"{path}: outputs are off by {share:.1%} of their deviation")
    return worst, share


def answer_scores(wanted, model, tokenizer):
    """What transformers makes of every part of the passage, and of no answer; beside what we make of those we tell."""
    inputs = tokenizer(wanted["question"], wanted["context"], return_offsets_mapping=True, return_tensors="pt")
    places = [place for place, text in enumerate(inputs.sequence_ids()) if text == 1]
    offsets = inputs.pop("offset_mapping")[0].tolist()
    out = model(**inputs)
    starts, ends = out.start_logits[0].tolist(), out.end_logits[0].tolist()
    scores = {(None, None): starts[0] + ends[0]}
    for place in places:
        for last in places[places.index(place) :][:30]:
            scores[offsets[place][0], offsets[last][1]] = starts[place] + ends[last]
    best = max(score for part, score in scores.items() if part != (None, None))
    told = [(scores[answer["start"], answer["end"]], answer["score"]) for answer in wanted["answers"]]
    for answer in wanted["answers"]:
        if answer["start"] is not None and wanted["context"][answer["start"] : answer["end"]] != answer["text"]:
            sys.exit(f"`{answer['text']}` is not at {answer['start']} of the passage: {wanted}")
    return told + [(best, max(answer["score"] for answer in wanted["answers"] if answer["start"] is not None))]


def choice_scores(wanted, model, tokenizer):
    """What transformers makes of each choice, and of which is the best; beside what we do."""
    asked = f"{wanted['question']} " if "question" in wanted else ""
    texts = [asked + choice["text"] for choice in wanted["choices"]]
    inputs = tokenizer([wanted["text"]] * len(texts), texts, padding=True, return_tensors="pt")
    scores = model(**as_choices(inputs, len(texts))).logits[0]
    probabilities = scores.softmax(-1)
    told = [(score.item(), choice["score"]) for score, choice in zip(scores, wanted["choices"])]
    told += [(share.item(), choice["probability"]) for share, choice in zip(probabilities, wanted["choices"])]
    return told + [(scores.argmax().item(), wanted["number"]), (probabilities.max().item(), wanted["probability"])]


def compare_predictions(folder, model, tokenizer, by_mean):
    """What transformers makes of a text, from the text, as somebody would use the folder."""
    worst = 0.0
    for line in (folder / "predictions.jsonl").read_text().splitlines():
        wanted = json.loads(line)
        if "answer" in wanted or "number" in wanted:
            if "answer" in wanted:
                pairs = answer_scores(wanted, model, tokenizer)
            elif "choices" in wanted:
                pairs = choice_scores(wanted, model, tokenizer)
            else:
                texts = [wanted["text"]] + ([wanted["pair"]] if "pair" in wanted else [])
                logits = class_logits(model, tokenizer(*texts, return_tensors="pt"), by_mean)
                pairs = [(logits[0, 0].item(), wanted["number"])]
            for right, told in pairs:
                worst = max(worst, abs(right - told))
                if not abs(right - told) <= 1e-4:
                    sys.exit(f"{folder}: {told:g} is told, and {right:g} is right: {line}")
            continue
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
