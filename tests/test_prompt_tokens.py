"""A prompt's tokens are the original's: each text between images by itself, with one token that begins a sequence."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints.internvl import save_internvl
from lmms_tiny import load_wrapper, save_tiny_llava
from PIL import Image as Picture
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from adaptinfer_eval.backbones.messages import Image, Message
from adaptinfer_eval.models.decoding import continued

MINI_MODEL = Path(__file__).parent.parent / "tasks" / "mini" / "model"
PICTURE = Image(Picture.new("RGB", (24, 24), "red"))
SPECIAL = ["<unk>", "<s>", "</s>", "<image>", "<pad>"]
PROMPTS: dict[str, list[Message]] = {
    "no image": [("user", ["Is there a dog?\nPlease answer  yes or no."])],
    "one image": [("user", [PICTURE, "Is there a dog in this image? 日本語 Ünï"])],
    "an image at the end": [("user", ["Which is red?", PICTURE])],
    "images side by side": [("user", [PICTURE, PICTURE, "Which is red?"])],
    "images with text between them": [("user", [PICTURE, "and", PICTURE, " or", PICTURE, "?"])],
    "its own system prompt": [("system", [" Be brief."]), ("user", [PICTURE, "Which is red?"])],
    "an earlier answer": [("user", [PICTURE, "Hello"]), ("assistant", ["Hi"]), ("user", ["Which?", PICTURE])],
    "an answer that shows": [("user", ["Hello"]), ("assistant", [PICTURE]), ("user", ["Which?"])],
}


class Vocabulary:
    """A real one of SentencePiece, and the original's way to use it."""

    def __init__(self) -> None:
        found = importlib.util.find_spec("mistral_common")  # not imported: nothing but its data is needed
        if found is None or not found.submodule_search_locations:
            pytest.skip("mistral-common has the vocabulary")
        sentencepiece = pytest.importorskip("sentencepiece")
        path = Path(found.submodule_search_locations[0]) / "data" / "tokenizer.model.v1"
        self.model = sentencepiece.SentencePieceProcessor(str(path))
        self.tokens = {self.model.id_to_piece(number): number for number in range(self.model.vocab_size())}

    def merges(self) -> list[tuple[str, str]]:
        """What the pieces are made of, most wanted first."""
        found = []
        for token, number in sorted(self.tokens.items(), key=lambda item: -self.model.get_score(item[1])):
            parts = [(token[:at], token[at:]) for at in range(1, len(token))]
            known = [pair for pair in parts if pair[0] in self.tokens and pair[1] in self.tokens]
            if not self.model.is_byte(number) and not self.model.is_control(number):
                found += sorted(known, key=lambda pair: (self.tokens[pair[0]], self.tokens[pair[1]]))
        return found

    def original(self, text: str) -> list[int]:
        """One -1 per image. Behind `</s>` the text goes on, without a mark: a line break keeps it from having one."""
        tokens = [1]
        for number, chunk in enumerate(text.split("<image>")):
            first, *others = chunk.split("</s>")
            tokens += [-1] * (number > 0) + self.model.encode(first)
            for other in others:
                tokens += [2, *self.model.encode("\n" + other)[2:]]
        return tokens


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary()


def older_file(vocabulary: Vocabulary) -> Any:
    """As checkpoints of transformers 4 have it: the mark is put before every text between special tokens."""
    made = Tokenizer(
        models.BPE(
            vocab=vocabulary.tokens, merges=vocabulary.merges(), unk_token="<unk>", fuse_unk=True, byte_fallback=True
        )
    )
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    roles = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **roles)  # type: ignore[no-untyped-call]


def without_prefix(vocabulary: Vocabulary) -> Any:
    """The mark only before the whole, by a pre-tokenizer, in a file of no named kind."""
    made = older_file(vocabulary)
    made.backend_tokenizer.normalizer = None
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return made


def llama(vocabulary: Vocabulary) -> Any:
    tokens = {"extra_special_tokens": ["<image>"], "pad_token": "<pad>", "add_bos_token": True}
    return LlamaTokenizer(vocab=vocabulary.tokens, merges=vocabulary.merges(), **tokens)


FORMS: dict[str, tuple[Callable[[Vocabulary], Any], bool | None]] = {
    "an older file": (older_file, None),
    "no legacy flag": (llama, None),
    "legacy": (llama, True),
    "not legacy": (llama, False),
    "a file without prefix": (without_prefix, None),
}


@pytest.fixture(scope="module", params=FORMS)
def model(request: pytest.FixtureRequest, vocabulary: Vocabulary, tmp_path_factory: pytest.TempPathFactory) -> Any:
    make, legacy = FORMS[request.param]
    folder = save_tiny_llava(tmp_path_factory.mktemp("llava"))
    make(vocabulary).save_pretrained(folder)
    if legacy is not None:
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "legacy": legacy}))
    return load_wrapper(folder, "llava")


@pytest.mark.parametrize("name", PROMPTS)
def test_vicuna_v1_is_in_the_originals_tokens(model: Any, vocabulary: Vocabulary, name: str) -> None:
    prompt = model.prompt(PROMPTS[name])
    tokens = []
    for token in vocabulary.original(prompt.text):
        tokens += [model.processor.image_token_id] * 36 if token == -1 else [token]
    assert model.encode([prompt]).inputs["input_ids"][0].tolist() == tokens


def test_the_mark_stands_behind_an_image(model: Any, vocabulary: Vocabulary) -> None:
    """As a list of tokens, so that nothing else need be right to see it."""
    tokens = model.encode([model.prompt([("user", [PICTURE, "Is"])])]).inputs["input_ids"][0].tolist()
    behind = tokens[tokens.index(model.processor.image_token_id) + 36 :]
    assert behind[:3] == [vocabulary.tokens[token] for token in ("▁", "<0x0A>", "Is")]


def test_a_batch_has_the_tokens_of_its_prompts(model: Any) -> None:
    prompts = [model.prompt(messages) for messages in PROMPTS.values()]
    inputs = model.encode(prompts).inputs
    for row, mask, prompt in zip(inputs["input_ids"], inputs["attention_mask"], prompts, strict=True):
        assert row[mask.bool()].tolist() == model.encode([prompt]).inputs["input_ids"][0].tolist()


def test_a_continuation_is_what_it_is_behind_the_prompt(model: Any, vocabulary: Vocabulary) -> None:
    text = model.prompt(PROMPTS["one image"]).text
    assert continued(model.tokenizer, text, "a dog") == vocabulary.model.encode("a dog")


def test_other_tokenizers_stay_as_they_are(tmp_path: Path) -> None:
    """Byte-level ones, and the mini world's, where the original's way gives what its models were trained with."""
    for folder in (MINI_MODEL, save_tiny_llava(tmp_path)):
        model = load_wrapper(folder, "llava")
        prompt = model.prompt(PROMPTS["images with text between them"])
        one_pass = model.processor(text=prompt.text, images=prompt.images)["input_ids"][0]
        assert model.encode([prompt]).inputs["input_ids"][0].tolist() == one_pass
        chunks = [
            model.tokenizer(chunk, add_special_tokens=False)["input_ids"] for chunk in prompt.text.split("<image>")
        ]
        places = len(one_pass) - sum(map(len, chunks)) - (folder == MINI_MODEL)  # the mini world's begins with a token
        assert [token for token in one_pass if token != model.processor.image_token_id][-len(chunks[-1]) :] == chunks[
            -1
        ]
        assert places == len(prompt.images) * (576 if folder == MINI_MODEL else 36)


@pytest.mark.parametrize("family", ["llava", "internvl"])
@pytest.mark.parametrize("writes", [True, False])
def test_one_token_begins_a_sequence(family: str, writes: bool, tmp_path: Path) -> None:
    """Whether the chat template writes it or the tokenizer; as transformers itself does it."""
    folder = tmp_path / "model"
    if family == "llava":
        shutil.copytree(MINI_MODEL, folder)
    else:
        save_internvl(folder)
        add_begin(folder)
    template = folder / "chat_template.jinja"
    template.write_text(("{{ bos_token }}" if writes else "") + template.read_text())
    model = load_wrapper(folder, family, arguments=",conv=hf" if family == "llava" else "")
    asked: list[Message] = [("user", [PICTURE, "Is there a dog?"])]
    chat = [
        {
            "role": "user",
            "content": [{"type": "image", "image": PICTURE.source}, {"type": "text", "text": "Is there a dog?"}],
        }
    ]
    theirs = model.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True)
    for batch in (model.encode([model.prompt(asked)]), model.encode([model.prompt(asked)] * 2)):
        for row in batch.inputs["input_ids"].tolist():
            assert row == theirs["input_ids"][0]
            assert row.count(model.tokenizer.bos_token_id) == 1


def add_begin(folder: Path) -> None:
    """Make the tokenizer put `<|im_begin|>` before every text."""
    file = folder / "tokenizer.json"
    words = Tokenizer.from_file(str(file))
    words.add_special_tokens([AddedToken("<|im_begin|>", special=True)])
    number = words.token_to_id("<|im_begin|>")
    words.post_processor = processors.TemplateProcessing(
        single="<|im_begin|> $A", special_tokens=[("<|im_begin|>", number)]
    )
    words.save(str(file))
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "bos_token": "<|im_begin|>"}))
