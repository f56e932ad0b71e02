"""The text of captions: what is put around them once, and what is drawn of them."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from pipeline.backends.native.captions import caption_at
from pipeline.backends.native.job import changes
from pipeline.backends.native.render import SWEEP_FILE, native_job
from pipeline.backends.native.support import native_warnings
from pipeline.checks.captions import caption_problems
from pipeline.checks.recipes import recipe_warnings
from pipeline.dataset.captions import (
    drawn,
    first_text,
    has_alternatives,
    kept_tags,
    longest_texts,
    looks_weighted,
    may_vary,
    static_text,
    without_weights,
)
from pipeline.dataset.scan import scan
from pipeline.memory.profiles import first_candidate
from pipeline.records import Dataset
from pipeline.settings import PROJECT
from pipeline.validate import fingerprint, validate
from tests import given
from tests.conftest import PlanFor
from tests.test_native_parts import TRAIN

WILD = replace(TRAIN, wildcards=True, shuffle_tags=False)
TEXT = st.text(alphabet="ab ,:.1()[]{}|\n", max_size=40)


def text_of(caption: str, *, tags_change: bool = False, **values: object) -> str:
    return static_text(caption, given.data(Path("x"), **values), tags_change=tags_change)


def scanned(folder: Path, *captions: str, tags_change: bool = False, **values: object) -> Dataset:
    for number, caption in enumerate(captions):
        given.picture(folder / f"{number}.png", caption)
    dataset, problems = scan(given.data(folder, **values), threads=1, tags_change=tags_change)
    assert dataset is not None and not problems
    return dataset


# ------------------------------------------------------------------------------------------------------ around captions


def test_a_caption_is_as_its_file_has_it_where_nothing_is_asked_for() -> None:
    caption = "(a:1.2)  {b|c}\n\nd"
    assert text_of(caption) == caption


def test_the_trigger_stands_before_the_prefix_and_the_suffix_last() -> None:
    values: dict[str, Any] = {"trigger": "sks", "caption_prefix": "photo of", "caption_suffix": ", film"}
    assert text_of("a dog", **values) == "sks, photo of a dog , film"


@pytest.mark.parametrize(
    "caption",
    ["sks, dog", "dog, SKS, park", "a photo of sks dog", "sks's dog", "dog (sks)"],
)
def test_a_caption_that_holds_the_trigger_as_a_word_gets_no_second_one(caption: str) -> None:
    assert text_of(caption, trigger="sks") == caption


@pytest.mark.parametrize("caption", ["skser, dog", "sks-like dog", "sks_dog", "asks, dog", "dog"])
def test_a_part_of_a_word_is_not_the_trigger(caption: str) -> None:
    assert text_of(caption, trigger="sks") == f"sks, {caption}"


def test_a_trigger_may_be_several_words_or_signs() -> None:
    assert text_of("a blue  bird", trigger="blue bird") == "blue bird, a blue  bird"
    assert text_of("a blue bird", trigger="Blue Bird") == "a blue bird"
    assert text_of("by a.b, x", trigger="a.b") == "by a.b, x"
    assert text_of("by a+b, x", trigger="a.b") == "a.b, by a+b, x"


def test_where_tags_move_the_one_with_the_trigger_is_the_first() -> None:
    assert text_of("park, a sks dog, sun", trigger="sks", tags_change=True) == "a sks dog, park, sun"
    assert text_of("park, sun, sks", trigger="sks", tags_change=True) == "sks, park, sun"
    assert text_of("sks dog, park", trigger="sks", tags_change=True) == "sks dog, park"


def test_with_wildcards_each_line_has_all_that_is_put_around_a_caption() -> None:
    values: dict[str, Any] = {"trigger": "sks", "caption_prefix": "a", "caption_suffix": "b", "wildcards": True}
    assert text_of("one\n\n  two sks \r\nthree", **values) == "sks, a one b\na two sks b\nsks, a three b"


def test_a_trigger_that_may_not_be_drawn_is_none() -> None:
    values: dict[str, Any] = {"trigger": "sks", "wildcards": True}
    assert text_of("{x, sks|ohwx} dog", tags_change=True, **values) == "sks, {x, sks|ohwx} dog"
    assert text_of("{x, y|z}, sks", tags_change=True, **values) == "sks, {x, y|z}"
    assert text_of("{{sks}} dog", **values) == "{{sks}} dog"


def test_weights_are_out_before_the_trigger_is_looked_for() -> None:
    assert text_of("(sks:1.2), dog", trigger="sks", strip_weights=True) == "sks, dog"


def test_a_caption_of_nothing_but_brackets_stays() -> None:
    assert text_of("()", strip_weights=True) == "()"
    assert text_of("()\n()", strip_weights=True, wildcards=True) == "()\n()"


# ------------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize(
    ("caption", "plain"),
    [
        ("(cat:1.3), dog", "cat, dog"),
        ("((cat)), [dog], [[bird]]", "cat, dog, bird"),
        ("(a (cat:1.2) b:.5)", "a cat b"),
        ("(cat: 1.2 )", "cat"),
        (r"cat \(series\), \[x\]", "cat (series), [x]"),
        (r"(cat \(series\):1.1)", "cat (series)"),
        (r"a\\b, \m/", r"a\b, \m/"),
        ("(unbalanced", "(unbalanced"),
        ("unbalanced:1.2)", "unbalanced:1.2)"),
        (":(, smile", ":(, smile"),
        ("ratio 16:9, (wide)", "ratio 16:9, wide"),
        ("(a [b) c]", "a b c"),
        ("a ((house:1.3)) [on] a (hill:0.5), sun, (((sky))).", "a house on a hill, sun, sky."),
        ("a (((house:1.3)) [on] a (hill:0.5)", "a (house on a hill"),
    ],
)
def test_weights_and_brackets_are_taken_out(caption: str, plain: str) -> None:
    assert without_weights(caption) == plain


@for_all(TEXT)
def test_without_weights_there_is_nothing_left_to_take_out(caption: str) -> None:
    """But for escaped brackets, which are plain then."""
    assert without_weights(without_weights(caption)) == without_weights(caption)


@for_all(st.text(alphabet="ab ,:.1|\n", max_size=40))
def test_text_without_brackets_stays(caption: str) -> None:
    assert without_weights(caption) == caption


@pytest.mark.parametrize("caption", ["(cat:1.2)", "a, (b)", "((a b)) c", "[a], b", r"cat \(x\)", "[[a]]"])
def test_a_caption_for_the_web_ui_is_known(caption: str) -> None:
    assert looks_weighted(caption)


@pytest.mark.parametrize("caption", ["miku (vocaloid), a", "a dog (left) and a cat", "16:9", ":(, smile", "a [b] c"])
def test_brackets_within_a_tag_are_not_said_to_be_weights(caption: str) -> None:
    assert not looks_weighted(caption)


def test_long_captions_of_signs_alone_take_no_long_time() -> None:
    for sign in ("(", "[", "{", ":1", "(:", ": ", "\\", "1"):
        caption = sign * 30_000
        without_weights(caption), looks_weighted(caption), first_text(caption), has_alternatives(caption)


# ----------------------------------------------------------------------------------------------------------- wildcards


@pytest.mark.parametrize(
    ("caption", "first"),
    [
        ("a {red|blue} {cat|dog}", "a red cat"),
        ("one\ntwo", "one"),
        ("{one} way, {} none", "one way, {} none"),
        ("{{a|b}}", "{a|b}"),
        ("{a{b|c}", "a{b"),
        ("{a|{{b}}}", "a"),
        ("{|big} dog", " dog"),
        ("no { end", "no { end"),
    ],
)
def test_the_first_of_lines_and_alternatives(caption: str, first: str) -> None:
    """As process_caption of sd-scripts 0.10.1 gives them where random.choice takes the first."""
    assert first_text(caption) == first


@for_all(st.lists(st.text("abc ,", min_size=1, max_size=5), min_size=1, max_size=4), st.integers())
def test_what_is_drawn_is_one_of_the_alternatives(texts: list[str], seed: int) -> None:
    choose = random.Random(seed).choice
    assert drawn(f"x {{{'|'.join(texts)}}} y", choose) in {f"x {text} y" for text in texts}
    assert drawn("\n".join(texts), choose) in texts


@for_all(TEXT, st.integers())
def test_only_a_caption_that_may_vary_is_drawn_otherwise(caption: str, seed: int) -> None:
    if not may_vary(caption):
        assert drawn(caption, random.Random(seed).choice) == caption


def test_the_longest_texts_are_those_of_each_line() -> None:
    assert longest_texts("a {b|ccc|dd}\ne") == ["a ccc", "e"]


# ------------------------------------------------------------------------------------------------------ at each showing


def test_wildcards_are_drawn_by_seed_position_and_place_alone() -> None:
    caption = "a {red|blue|green} {cat|dog}\nsomething else"
    at = [caption_at(caption, WILD, seed=3, position=position, place=0) for position in range(60)]
    again = [caption_at(caption, WILD, seed=3, position=position, place=0) for position in reversed(range(60))]
    assert at == again[::-1]
    assert set(at) == {f"a {color} {animal}" for color in ("red", "blue", "green") for animal in ("cat", "dog")} | {
        "something else"
    }
    assert at != [caption_at(caption, WILD, seed=3, position=position, place=1) for position in range(60)]


def test_tags_are_shuffled_after_the_wildcards_are_drawn() -> None:
    train = replace(WILD, shuffle_tags=True, keep_tags=1)
    seen = {caption_at("sks, {a, b|c, d}, e", train, seed=0, position=i, place=0) for i in range(100)}
    assert {tuple(sorted(text.split(", "))) for text in seen} == {("a", "b", "e", "sks"), ("c", "d", "e", "sks")}
    assert all(text.startswith("sks, ") for text in seen)
    assert len(seen) > 4


def test_a_caption_with_wildcards_is_another_each_time_and_only_where_they_are_asked_for() -> None:
    assert changes("{a|b}", WILD) and changes("a\nb", WILD)
    assert not changes("a b", WILD)
    assert not changes("{a|b}", replace(WILD, wildcards=False))
    assert caption_at("{a|b}", replace(WILD, wildcards=False), seed=0, position=0, place=0) == "{a|b}"


def test_a_trigger_counts_as_a_kept_tag() -> None:
    assert kept_tags(given.settings("train.keep_tags=0")) == 0
    assert kept_tags(given.settings("train.keep_tags=0", "data.trigger=sks")) == 1
    assert kept_tags(given.settings("train.keep_tags=3", "data.trigger=sks")) == 3


# --------------------------------------------------------------------------------------------------------- the dataset


def test_the_dataset_has_the_text_that_is_trained_on(tmp_path: Path) -> None:
    plain = scanned(tmp_path, "park, (sks:1.2)", "dog")
    dataset = scanned(tmp_path, "park, (sks:1.2)", "dog", trigger="sks", strip_weights=True, tags_change=True)
    assert [picture.caption for picture in dataset.train] == ["sks, park", "sks, dog"]
    assert dataset.digest != plain.digest


def test_a_held_out_picture_is_always_judged_by_the_same_words(tmp_path: Path) -> None:
    given.picture(tmp_path / "aside" / "x.png", "a {cat|dog}\nanother")
    aside = str(tmp_path / "aside")
    dataset = scanned(tmp_path / "in", "a {cat|dog}", heldout_dir=aside, wildcards=True, trigger="sks")
    assert dataset.heldout[0].caption == "sks, a cat"
    assert dataset.train[0].caption == "sks, a {cat|dog}"


def told(dataset: Dataset) -> str:
    return " ".join(dataset.warnings)


def test_what_looks_like_weights_is_told_with_the_setting_that_takes_them_out(tmp_path: Path) -> None:
    captions = ("a (cat:1.2)", "a dog (left)")
    said = told(scanned(tmp_path, *captions))
    assert said.startswith("1 picture with weights") and "data.strip_weights=true" in said and "0.png" in said
    assert told(scanned(tmp_path, *captions, strip_weights=True)) == ""


def test_lines_and_alternatives_are_told_with_the_setting_that_draws_them(tmp_path: Path) -> None:
    captions = ("one\ntwo", "a {b|c}", "d")
    said = told(scanned(tmp_path, *captions))
    assert "1 picture with a caption of several lines" in said and "0.png" in said
    assert "1 picture with alternatives as in {a|b}" in said and "1.png" in said
    assert said.count("data.wildcards=true") == 2
    assert told(scanned(tmp_path, *captions, wildcards=True)) == ""
    assert "data.caption_prefix" in told(scanned(tmp_path / "other", "d", caption_prefix="{a|b}"))


@pytest.mark.parametrize("name", ["wildcards", "strip_weights"])
def test_a_setting_that_finds_nothing_to_do_is_told(name: str, tmp_path: Path) -> None:
    assert told(scanned(tmp_path, "a cat", "a dog", **{name: True})).startswith(f"data.{name}=true changes nothing")


def test_a_prefix_may_have_the_wildcards(tmp_path: Path) -> None:
    dataset = scanned(tmp_path, "cat", caption_prefix="{a|the}", wildcards=True)
    assert told(dataset) == ""
    assert dataset.train[0].caption == "{a|the} cat"


# ------------------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("values", "key", "fix"),
    [
        ({"data__trigger": ""}, "data.trigger", "data.trigger=WORD, or data.trigger=null"),
        ({"data__trigger": "  "}, "data.trigger", "data.trigger=WORD, or data.trigger=null"),
        ({"data__trigger": "sks, dog"}, "data.trigger", "data.trigger='sks dog'"),
        ({"data__trigger": " sks\n"}, "data.trigger", "data.trigger='sks'"),
        ({"data__trigger": "{a|b}", "data__wildcards": True}, "data.trigger", "data.trigger=WORD, or ..."),
        ({"data__caption_prefix": "a\nb"}, "data.caption_prefix", "data.caption_prefix='a b'"),
        ({"data__caption_suffix": "a\0b"}, "data.caption_suffix", "data.caption_suffix='a..."),
        ({"train__caption_tokens": 77}, "train.caption_tokens", "train.caption_tokens=150"),
        ({"train__caption_tokens": 200}, "train.caption_tokens", "train.caption_tokens=225"),
    ],
)
def test_a_setting_of_captions_that_means_nothing_is_told(values: dict[str, object], key: str, fix: str) -> None:
    (problem,) = caption_problems(given.settings(**values))
    assert problem.key == key
    assert problem.fix == fix or problem.fix.startswith(fix.removesuffix("...")), problem.fix


@pytest.mark.parametrize("tokens", [75, 150, 225])
def test_lengths_that_clip_is_read_in(tokens: int) -> None:
    assert list(caption_problems(given.settings(train__caption_tokens=tokens))) == []


@pytest.mark.parametrize(
    "values", [{"data__wildcards": True}, {"data__trigger": "cat"}, {"train__caption_tokens": 150}]
)
def test_what_changes_the_captions_changes_the_fingerprint(values: dict[str, object]) -> None:
    """The dataset is the same: its captions hold the trigger."""
    plain = given.settings("train.keep_tags=0")
    plan = validate(plain, given.facts())
    other = given.settings("train.keep_tags=0", **values)
    changed = replace(plan, settings=first_candidate(other, 0))
    assert fingerprint(changed, other) != fingerprint(replace(plan, settings=first_candidate(plain, 0)), plain)


def test_a_trigger_that_stays_in_front_is_not_said_to_move() -> None:
    captions = tuple(replace(each, caption=f"sks, tag {n}, b") for n, each in enumerate(given.pictures(20)))
    dataset = replace(given.dataset(0), train=captions)
    asked = ("train.shuffle_tags=true", "train.keep_tags=0")
    assert "captions begin with 'sks'" in " ".join(recipe_warnings(given.settings(*asked), dataset))
    assert "begin with" not in " ".join(recipe_warnings(given.settings(*asked, "data.trigger=sks"), dataset))


def test_of_wildcards_the_longest_text_is_held_against_the_limit() -> None:
    caption = "a\n{b|" + "red, " * 35 + "}"
    (picture,) = given.pictures(1)
    facts = given.facts(dataset=replace(given.dataset(0), train=(replace(picture, caption=caption),)))
    assert facts.checkpoint is not None
    facts = replace(facts, checkpoint=replace(facts.checkpoint, path=PROJECT / "demo" / "model"))
    asked = ("data.wildcards=true",)
    (said,) = native_warnings(given.settings(*asked), facts)
    assert "train.caption_tokens=150" in said
    (said,) = native_warnings(given.settings(*asked, "train.caption_tokens=150"), facts)
    assert "the 62 tokens of train.caption_tokens=150" in said and "train.caption_tokens=225" in said
    assert list(native_warnings(given.settings(*asked, "train.caption_tokens=225"), facts)) == []


# ------------------------------------------------------------------------------------------------------------ the job


def test_the_trainer_is_told_of_trigger_wildcards_and_length(plan_for: PlanFor, tmp_path: Path) -> None:
    asked = ("data.trigger=sks", "train.keep_tags=0", "data.wildcards=true", "train.caption_tokens=150")
    job = native_job(plan_for(*asked), tmp_path, tmp_path)
    assert (job.train.keep_tags, job.train.wildcards, job.model.caption_tokens) == (1, True, 150)
    assert job.metadata["ss_max_token_length"] == "150"


def test_trials_that_read_captions_of_other_lengths_begin_with_another_model(plan_for: PlanFor, tmp_path: Path) -> None:
    (tmp_path / SWEEP_FILE).touch()
    plans = [plan_for(f"train.caption_tokens={tokens}") for tokens in (75, 75, 150)]
    first, same, other = (native_job(plan, tmp_path / "0", tmp_path).before_dir for plan in plans)
    assert first == same != other
