"""Text to blocks as run_mlm does it: `datasets.map` with the fast tokenizer, then one that joins and cuts."""

from datasets import disable_progress_bars
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

disable_progress_bars()
# Documents are longer than any sequence here, and are cut afterwards.
logging.set_verbosity_error()


def tokenizer_of(file):
    return PreTrainedTokenizerFast(
        tokenizer_file=file,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def blocks_of(texts, tokenizer, length):
    def encode(rows):
        return tokenizer(rows["text"], return_special_tokens_mask=True)

    def cut(rows):
        joined = {name: [id for ids in lists for id in ids] for name, lists in rows.items()}
        whole = len(joined["input_ids"]) // length * length
        return {name: [ids[at : at + length] for at in range(0, whole, length)] for name, ids in joined.items()}

    encoded = texts.map(encode, batched=True, remove_columns=texts.column_names, load_from_cache_file=False)
    return encoded.map(cut, batched=True, load_from_cache_file=False)
