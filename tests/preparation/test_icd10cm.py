"""The ICD-10-CM source: its texts, labels, chapters and splits.

Oracles: the `simple_icd_10_cm` package itself, and the published numbers of texts and labels.
"""

import numpy as np
import pytest
import simple_icd_10_cm as book

from cxml.formats import icd10cm


@pytest.fixture(scope="module")
def whole():
    return icd10cm.read([], test_fraction=0.2, split_seed=0)


def labels_by_text(raw):
    """Label names of every row, as (text, frozenset of codes) pairs in sorted order."""
    codes = [name.split(" ")[0] for name in raw.label_names]
    return sorted(
        (text, tuple(sorted(codes[label] for label in split.labels[row].indices)))
        for split in raw.splits.values()
        for row, text in enumerate(split.texts)
    )


def test_the_whole_book_has_112133_texts_and_28163_labels(whole):
    assert sum(len(split.texts) for split in whole.splits.values()) == 112_133
    assert len(whole.label_names) == 28_163
    assert len(set(whole.label_names)) == 28_163
    assert len(whole.splits["test"].texts) == round(112_133 * 0.2)


def test_every_label_has_two_texts_and_every_text_a_label(whole):
    frequency = sum(np.bincount(s.labels.indices, minlength=28_163) for s in whole.splits.values())
    assert frequency.min() >= 2
    for split in whole.splits.values():
        split.labels.check_format(full_check=True)
        assert np.diff(split.labels.indptr).min() >= 1
        assert split.labels.has_canonical_format
        assert split.labels.shape == (len(split.texts), 28_163)


def test_a_chapter_has_the_texts_of_its_codes_labelled_with_the_codes_ancestors(raw_chapter):
    expected = []
    for code in book.get_all_codes(with_dots=True):
        ancestors = book.get_ancestors(code)
        if "3" in (code, *ancestors):
            texts = [book.get_description(code), *book.get_inclusion_term(code), *book.get_includes(code)]
            expected += [(text, {code, *ancestors}) for text in texts]
    seen_twice = {c for _, codes in expected for c in codes if sum(c in other for _, other in expected) >= 2}
    expected = [(text, tuple(sorted(codes & seen_twice))) for text, codes in expected if codes & seen_twice]
    assert labels_by_text(raw_chapter) == sorted(expected)
    assert len(expected) > 300


def test_names_are_code_and_description(raw_chapter):
    assert "D50 Iron deficiency anemia" in raw_chapter.label_names


def test_chapters_add_up():
    both = icd10cm.read(["3", "22"], 0.2, 0)
    alone = [icd10cm.read([chapter], 0.2, 0) for chapter in ("03", "22")]
    assert labels_by_text(both) == sorted(labels_by_text(alone[0]) + labels_by_text(alone[1]))


def test_the_seed_settles_the_split(raw_chapter):
    again = icd10cm.read(["3"], 0.2, 0)
    other = icd10cm.read(["3"], 0.2, 1)
    assert again.splits["test"].texts == raw_chapter.splits["test"].texts
    assert other.splits["test"].texts != raw_chapter.splits["test"].texts
    assert labels_by_text(other) == labels_by_text(raw_chapter)


@pytest.mark.parametrize("fraction", [0.0001, 0.9999])
def test_an_extreme_fraction_leaves_a_text_in_each_split(fraction):
    raw = icd10cm.read(["22"], fraction, 0)
    assert min(len(split.texts) for split in raw.splits.values()) == 1
