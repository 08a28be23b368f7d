"""The byte-level BPE vocabulary, trained on the stories and requests themselves."""

import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from .requests import SPECIALS, document

VOCAB = 2048


def _sample_texts(seed, count):
    rng = random.Random(f"tokenizer {seed}")
    for _ in range(count):
        yield "".join(t for t, _ in document(rng))


def train_tokenizer(seed, documents=20000):
    """Byte-complete: all 256 byte symbols are in the vocabulary, so any text has tokens."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=SPECIALS, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    strip = (t for t in _sample_texts(seed, documents))
    for_special = (s for text in strip for s in _without_specials(text))
    tok.train_from_iterator(for_special, trainer)
    assert tok.get_vocab_size() == VOCAB, tok.get_vocab_size()
    return tok


def _without_specials(text):
    for special in SPECIALS:
        text = text.replace(special, "\0")
    return [part for part in text.split("\0") if part]
