"""One small tokenizer of each kind. The ids 0, 1 and 2 are special."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, PythonBackend

from noiser.lm.tokenizer import Tokens

SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
CORPUS = ["the cat sat on the mat", "the theatre, the other, and then (the) cat!", "user assistant system content hello there"] * 3


def byte_level(trim=True):
    """As in GPT-2, with merges. Offsets are with or without the leading space."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=[*SPECIAL.values()], initial_alphabet=alphabet, show_progress=False)
    )
    backend.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=trim)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)


def metaspace():
    """As in SentencePiece: U+2581 for a space and one in front, bytes for unknown characters, `<s>` in front."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    pieces = [*SPECIAL.values(), "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=320, special_tokens=pieces, show_progress=False))
    vocabulary = backend.get_vocab()
    trained = Tokenizer.from_str(backend.to_str()).model
    backend = Tokenizer(trained)
    assert vocabulary["<s>"] == 1
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([*SPECIAL.values()])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)


def word_piece():
    """As in BERT: lower case, `##` inside a word, no token for a space, `<s>` in front, `</s>` behind."""
    letters = sorted({character for character in "".join(CORPUS) + "0123456789.!?-" if character != " "})
    pieces = [*SPECIAL.values(), "<unk>", *letters, *(f"##{letter}" for letter in letters), "the", "##at", "##re", "cat"]
    backend = Tokenizer(models.WordPiece({piece: rank for rank, piece in enumerate(pieces)}, unk_token="<unk>"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **SPECIAL)


class Characters(PythonBackend):
    """A slow tokenizer: one token for each character, without offsets."""

    def __init__(self, lose="", **options):
        self.pieces = [*SPECIAL.values(), "<unk>", *map(chr, range(32, 127)), "\n"]
        self.lose = lose
        super().__init__(unk_token="<unk>", **SPECIAL, **options)

    vocab_size = property(lambda self: len(self.pieces))

    def get_vocab(self):
        return {piece: rank for rank, piece in enumerate(self.pieces)}

    def _tokenize(self, text, **_):
        return [character for character in text if character not in self.lose]

    def _convert_token_to_id(self, token):
        return self.pieces.index(token) if token in self.pieces else 3

    def _convert_id_to_token(self, index):
        return self.pieces[index]

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        return [1, *token_ids_0]


def tokens(tokenizer, limit=None):
    return Tokens(tokenizer, limit, len(tokenizer))
