"""Tiny tokenizers of the two generations, in the files that their publishers give: every byte, and a few words."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

from sentencepiece import SentencePieceTrainer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tests.engines.vllm.vocabulary import BYTES, WORDS

# What the vocabularies are learnt from: each word is common enough to become one token, with the space before it.
TEXT = [f"Question: {first} {second} Answer: {second} {first}" for first in WORDS for second in WORDS]
PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
LLAMA3_SPECIAL = [
    *("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
]


def vicuna(folder: Path) -> Path:
    """Write a tokenizer laid out like lmsys/vicuna-7b-v1.5: a SentencePiece model that Transformers has to convert."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT),
        model_writer=model,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        required_chars=PRINTABLE,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    special = {"bos_token": _told("<s>"), "eos_token": _told("</s>"), "unk_token": _told("<unk>")}
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, "add_eos_token": False}
    _write(folder / "tokenizer_config.json", {**settings, **special, "pad_token": None, "model_max_length": 4096})
    _write(folder / "special_tokens_map.json", {**special, "pad_token": "<unk>"})
    return folder


def llama3(folder: Path) -> Path:
    """Write a tokenizer laid out like zai-org/cogvlm2-llama3-chat-19B: byte-level, special tokens after all others."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=BYTES, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in LLAMA3_SPECIAL])
    bos = LLAMA3_SPECIAL[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": bos, "eos_token": LLAMA3_SPECIAL[1]}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": True}
    _write(folder / "tokenizer_config.json", {**settings, **special, "model_max_length": 2048})
    _write(folder / "special_tokens_map.json", special)
    return folder


def _told(token: str) -> dict[str, object]:
    """A special token as Vicuna's files describe it."""
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"__type": "AddedToken", "content": token, **flags}


def _write(file: Path, settings: Mapping[str, object]) -> None:
    """Write settings as JSON."""
    file.write_text(json.dumps(settings, indent=2))
