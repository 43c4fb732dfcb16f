"""Words as evidence beside the dense cascade: a sparse linear model of whole texts, and how both are combined.

In: the tf-idf of a prepared data set, whose words are those of whole texts; its labels; the cascade's tree.

1. `train_word_model`: a linear classifier for every node of the tree, trained on the texts of its parent.
2. `pair_up`: the labels that the cascade or the words propose for a text, with a few facts about each.
3. `choose_combination`: a logistic regression over these facts, learnt on validation texts, or the best single part
   where it is better.
4. `write_words`, `commit_words`: the folder `words` inside that of a model; the manifest comes last.

Out: `WordEvidence`, whose `combine` turns the cascade's best labels of some texts into the model's.
"""

from cxml.evidence.combination import (
    CANDIDATES,
    Combination,
    Pairs,
    Proposals,
    Way,
    choose_combination,
    pair_up,
    rank,
)
from cxml.evidence.files import (
    REMEDY,
    WORDS,
    commit_words,
    read_evidence,
    read_uncombined,
    write_evidence,
    write_words,
)
from cxml.evidence.word_evidence import WordEvidence
from cxml.evidence.word_model import WordModel, train_word_model

__all__ = [
    "CANDIDATES",
    "REMEDY",
    "WORDS",
    "Combination",
    "Pairs",
    "Proposals",
    "Way",
    "WordEvidence",
    "WordModel",
    "choose_combination",
    "commit_words",
    "pair_up",
    "rank",
    "read_evidence",
    "read_uncombined",
    "train_word_model",
    "write_evidence",
    "write_words",
]
