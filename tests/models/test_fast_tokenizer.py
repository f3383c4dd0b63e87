"""The fast tokenizer gives open_clip's token ids, for real captions and for hostile ones."""

import copy
import json
import pickle

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

from degla.models import fast_tokenizer
from degla.models.fast_tokenizer import FastTokenizer, supports
from degla.models.tokenizer import CaptionTokenizer

PLAIN = SimpleTokenizer()
SHORT = SimpleTokenizer(context_length=8)
FAST = FastTokenizer(SimpleTokenizer())

# Characters that ftfy, HTML, case folding, whitespace or the regular expression treat in a way of their own.
HOSTILE = (
    "a'S \t\n\r\x0b\x0c\x1b[0m\x00\x7f\x1c\x85\xa0\u2028\u3000\ufeff\u200b&amp;&lt;&#39;&eacute <_>\u2019\ufb01"
    "\u0130\u03a3\u03c2\u00e2\u20ac\u2122\xc3\xa9\xdf\uff21\u0301\u4e2d\U0001f600\u0660\u00bd"
)
PIECES = [
    *("<start_of_text>", "<END_OF_TEXT>", "&amp;amp;", "&lt;", "&#39;", "it's", "THEY'RE", "don't", "\x1b[31m"),
    *("a", "Dog", " ", "  ", "\n", "\u00a0", ".", "...", "1990", "x" * 70, "'", "&", "<", "_", "the", "\u03a3"),
    *("sch\u00c3\u00b6n", "\u0130stanbul"),
]
TEXTS = (
    st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=200)
    | st.text(max_size=60)
    | st.text(alphabet=HOSTILE, max_size=60)
    | st.lists(st.sampled_from(PIECES), max_size=90).map("".join)
    | st.lists(st.sampled_from(PIECES), max_size=90).map(" ".join)
)


@settings(max_examples=1500, deadline=None)
@given(TEXTS)
@example("")
@example(" ")
@example("a dog " * 100)
@example("<end_of_text> a <end_of_text>")
@example("AT&T &amp;lt;b&gt;")
@example("\u0391\u03a3 \u0391\u03a3")
def test_ids_are_open_clips(text):
    assert FAST.encode(text) == PLAIN.encode(text)
    [row] = FAST([text])
    assert row == PLAIN([text])[0][: len(row)].tolist() and not PLAIN([text])[0][len(row) :].any()


def test_ids_of_real_captions_are_open_clips(flickr):
    texts = [
        text
        for line in (flickr / "negatives.jsonl").read_text(encoding="utf-8").splitlines()[:1500]
        for text in (json.loads(line)["caption"], *(negative["text"] for negative in json.loads(line)["negatives"]))
    ]
    for file in sorted((flickr.parent / "sugarcrepe").glob("*.json")):
        items = json.loads(file.read_text(encoding="utf-8")).values()
        texts += [text for item in items for text in (item["caption"], item["negative_caption"])]
    assert len(texts) > 5000
    assert [FAST.encode(text) for text in texts] == [PLAIN.encode(text) for text in texts]


@pytest.mark.parametrize("clean", ["lower", "whitespace", "canonicalize"])
def test_each_way_of_cleaning(clean):
    plain = SimpleTokenizer(clean=clean)
    texts = ["A  Dog, isn't\tit?", " <b>Two_words</b> &amp; MORE ", "", "\u00c9t\u00e9 \u2019S"]
    assert [FastTokenizer(plain).encode(text) for text in texts] == [plain.encode(text) for text in texts]


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXTS, max_size=4), st.sampled_from([SHORT, PLAIN]), st.sampled_from([None, 49407, 320]), st.booleans())
def test_the_caption_tokenizer_does_not_change(texts, tokenize, eos_id, causal):
    fast = CaptionTokenizer(tokenize, tokenize.context_length, causal=causal, eos_id=eos_id)
    slow = copy.copy(fast)
    slow._fast = None
    assert fast._fast is not None and torch.equal(fast(texts), slow(texts))
    assert fast.ids(texts) == slow.ids(texts)
    assert [fast.is_truncated(text) for text in texts] == [slow.is_truncated(text) for text in texts]


def test_other_tokenizers_are_left_alone():
    assert not supports(SimpleTokenizer(reduction_mask="random"))
    assert not supports(HFTokenizer.__new__(HFTokenizer))


def test_the_cache_is_bounded_and_stays_in_its_process(monkeypatch):
    monkeypatch.setattr(fast_tokenizer, "_MAX_CACHED_WORDS", 10)
    fast = FastTokenizer(SimpleTokenizer())
    for number in range(100):
        assert fast.encode(f"dogs {number}") == PLAIN.encode(f"dogs {number}")
        assert len(fast.words) <= 10 and len(fast.tokenizer.cache) <= 25
    assert fast.encode("<start_of_text>" + "y" * 65) == PLAIN.encode("<start_of_text>" + "y" * 65)
    received = pickle.loads(pickle.dumps(fast))
    assert not received.words and received.encode("dogs") == PLAIN.encode("dogs")
