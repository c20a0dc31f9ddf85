#!/usr/bin/env python3
"""Make the tokenizers of this folder that are not older than this script, and their vectors.

Usage: make_tokenizers.py [NAME...]    needs the Python packages tokenizers and sentencepiece

A tokenizer.json gets what the `tokenizers` library makes of each text, a tokenizer.model what
sentencepiece makes of it. The texts are those of gpt2-style/vectors.json and some more. A text that
holds control pieces is left out of a tokenizer.model's vectors: sentencepiece does not see them.
"""
import io
import json
import os
import pathlib
import sys
import tempfile

import sentencepiece
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers,
                        pre_tokenizers, processors, trainers)

scratch = tempfile.TemporaryDirectory()
here = pathlib.Path(__file__).resolve().parent
texts = [v["text"] for v in json.loads((here / "gpt2-style/vectors.json").read_text())]
corpus = (here / "../../../models/demo/sample.txt").read_text().splitlines() + texts * 3
more_texts = [
    "\u2581", "a\u2581b", "\u2581\u2581 x", "<unk>", "x<unk>\u4e71<unk>", "\u9f98\u9f98 \u9f98", "<0x41>",
    "caf\u00e9 \uff21\uff22\uff23 \u2460 \u00bd \ufb01ne", "tab\there", "a \u00a0 b", "\u00ad soft", "e\u0301e\u0301 n\u0303",
    "[USER] hi [/USER]", "x[USER]y", "[US", "<user> one  two   three", "<|user|>\n  hi<|end|>\n",
    "end ", "  two  spaces  ", "\n \u3000\n", "1234567 89", "U.S.A. 3,5", "\U0001f9d1\u200d\U0001f680 up",
    "\u0915\u094d\u0937\u093f \u0e01\u0e33", "ab" * 40, "<s>", "<0xE4><0xB8>", "a\u0000b",
    "ize\n\n\n", " \u2581and", "g   \u2581 as", ".--- !???",
    # the library's normal forms are Unicode 9's: of newer characters it knows neither class nor parts
    "\u0e49\u0eba \u031a\u0eba", "\u32ff \ufdfb \U00011935\U00011930",
]


def write(name, files, vectors):
    folder = here / name
    folder.mkdir(exist_ok=True)
    for file, data in files.items():
        (folder / file).write_bytes(data)
    (folder / "vectors.json").write_text(
        json.dumps(vectors, indent=0, ensure_ascii=False) + "\n")


def write_json(name, tokenizer):
    vectors = []
    for text in texts + more_texts:
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        special = tokenizer.encode(text, add_special_tokens=True).ids
        vectors.append({
            "text": text, "ids": plain, "ids_with_special": special,
            "decoded": tokenizer.decode(plain, skip_special_tokens=False),
            "decoded_skip_special": tokenizer.decode(special, skip_special_tokens=True)})
    write(name, {"tokenizer.json": tokenizer.to_str(pretty=False).encode()}, vectors)


byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
merge_spaces = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]


def bos(tokenizer, token):
    return processors.TemplateProcessing(
        single=f"{token} $A", special_tokens=[(token, tokenizer.token_to_id(token))])


def train_sentencepiece(**options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([t for t in corpus if "\0" not in t]), model_writer=model,
        minloglevel=2, hard_vocab_limit=False, **options)
    return model.getvalue()


RULES = "\n".join(
    [f"{a:X}\t{b:X}" for a, b in zip(range(0xff01, 0xff5f), range(0x21, 0x7f))] +
    ["9\t20", "A\t20", "D\t20", "A0\t20", "3000\t20", "AD\t", "65 301\tE9", "FB01\t66 69",
     "BD\t31 2044 32", "2460\t31", "200B\t", "2026\t2E 2E 2E", "41 30A\tC5", "212B\tC5"]) + "\n"


def rules_file():
    os.chdir(scratch.name)  # the model remembers the name
    pathlib.Path("rules.tsv").write_text(RULES)
    return "rules.tsv"


def gemma_unigram_style():
    pieces = json_pieces(train_sentencepiece(
        model_type="unigram", vocab_size=500, normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=False))
    head = [("<pad>", 0.0), ("<eos>", 0.0), ("<bos>", 0.0), ("<unk>", 0.0)]
    vocabulary = head + [(p, 0.0) for p in byte_pieces] + [
        p for p in pieces if p[0] not in ("<s>", "</s>", "<unk>")]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence(merge_spaces)
    tokenizer.add_special_tokens(["<pad>", "<eos>", "<bos>", "<unk>"])
    tokenizer.post_processor = bos(tokenizer, "<bos>")
    write_json("gemma-unigram-style", tokenizer)


def t5_unigram_style():
    model = train_sentencepiece(model_type="unigram", vocab_size=500,
                                normalization_rule_tsv=rules_file())
    tokenizer = Tokenizer(models.Unigram(json_pieces(model), unk_id=0))
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.Precompiled(charsmap(model)), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))])
    write_json("t5-unigram-style", tokenizer)


def proto(data):
    """The fields of a protocol buffer: (number, value) each."""
    at, fields = 0, []

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        tag = varint()
        if tag & 7 == 0:
            fields.append((tag >> 3, varint()))
            continue
        n = varint() if tag & 7 == 2 else 4 if tag & 7 == 5 else 8
        fields.append((tag >> 3, data[at:at + n]))
        at += n
    return fields


def json_pieces(model):
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [(processor.id_to_piece(i), processor.get_score(i))
            for i in range(processor.get_piece_size())]


def charsmap(model):
    normalizer = dict(proto(model))[3]
    return dict(proto(normalizer))[2]


def train_bpe(tokenizer, size, alphabet, special):
    tokenizer.train_from_iterator([t for t in corpus if "\0" not in t], trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=special, show_progress=False))


def gemma3_style():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(merge_spaces)
    train_bpe(tokenizer, 700, [], ["<pad>", "<eos>", "<bos>", "<unk>"] + byte_pieces)
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.add_special_tokens(["<start_of_turn>", "<end_of_turn>"])
    tokenizer.add_tokens([AddedToken(s, normalized=False) for s in ("\n\n", "\u2581\u2581", "[USER]")])
    tokenizer.post_processor = bos(tokenizer, "<bos>")
    write_json("gemma3-style", tokenizer)


def byte_level(name, pre_tokenizer, normalizer=None, special=(), added=()):
    tokenizer = Tokenizer(models.BPE())
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    train_bpe(tokenizer, 500, pre_tokenizers.ByteLevel.alphabet(), list(special))
    tokenizer.add_tokens(list(added))
    if special:
        tokenizer.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False), bos(tokenizer, special[0])])
    write_json(name, tokenizer)


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def last_step():
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def granite_style():
    byte_level("granite-style", pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]))


def deepseek_style():
    byte_level("deepseek-style", pre_tokenizers.Sequence([
        split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
        split(r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
              r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), last_step()]),
        normalizer=normalizers.Sequence([]),
        special=["<\uff5cbegin\u2581of\u2581sentence\uff5c>"],
        added=[AddedToken("<|user|>", rstrip=True, normalized=False, special=False),
               AddedToken("<|end|>", lstrip=True, normalized=True, special=False)])


def olmo2_style():
    byte_level("olmo2-style", pre_tokenizers.Sequence([
        split(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
              r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), last_step()]),
        normalizer=normalizers.NFKC(), special=["<|endoftext|>"])


def sentencepiece_vectors(name, **options):
    model = train_sentencepiece(**options)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    control = [processor.id_to_piece(i) for i in range(processor.get_piece_size())
               if processor.is_control(i)]
    first = [processor.bos_id()] if processor.bos_id() >= 0 else []
    vectors = []
    for text in texts + more_texts:
        if any(piece in text for piece in control):
            continue
        ids = processor.encode(text)
        decoded = processor.decode(ids)
        vectors.append({"text": text, "ids": ids, "ids_with_special": first + ids,
                        "decoded": decoded, "decoded_skip_special": processor.decode(first + ids)})
    write(name, {"tokenizer.model": model}, vectors)


def spm_bpe_llama():
    sentencepiece_vectors(
        "spm-bpe-llama", model_type="bpe", vocab_size=700, byte_fallback=True,
        character_coverage=0.98, normalization_rule_name="identity",
        remove_extra_whitespaces=False, user_defined_symbols=["[USER]", "[US", "\u2581\u2581"])


def spm_bpe_suffix():
    sentencepiece_vectors(
        "spm-bpe-suffix", model_type="bpe", vocab_size=450, character_coverage=0.98,
        treat_whitespace_as_suffix=True, normalization_rule_tsv=rules_file(), bos_piece="<bos>",
        user_defined_symbols=["\uff21\uff22"])


def spm_unigram_gemma():
    sentencepiece_vectors(
        "spm-unigram-gemma", model_type="unigram", vocab_size=800, byte_fallback=True,
        character_coverage=0.98, normalization_rule_name="identity", add_dummy_prefix=False,
        remove_extra_whitespaces=False, user_defined_symbols=["<user>", "\n\n", "\u2581\u2581"])


def spm_unigram_trimmed():
    sentencepiece_vectors(
        "spm-unigram-trimmed", model_type="unigram", vocab_size=500, character_coverage=0.98,
        normalization_rule_tsv=rules_file(), user_defined_symbols=["[USER]", "\uff21\uff22"],
        bos_id=-1, unk_surface="?!")


makers = {m.__name__: m for m in (
    gemma_unigram_style, t5_unigram_style, gemma3_style, granite_style, deepseek_style, olmo2_style,
    spm_bpe_llama, spm_bpe_suffix, spm_unigram_gemma, spm_unigram_trimmed)}
for wanted in sys.argv[1:] or makers:
    makers[wanted]()
