"""Evidence beside the dense cascade: sources that propose labels, and their combination with the cascade.

Input: a prepared data set and a trained cascade with its tree.

1. Sources, each of which satisfies `Source`: `WordSource`, a linear model of whole texts over the cascade's tree;
   `NeighbourSource`, the nearest training texts in the cascade's feature space, which vote for their labels;
   `NameSource`, the nearest names of labels there.
2. `candidate_pairs`: the labels that the cascade or a source proposes for a text, with a few features about each.
3. `choose_combination`: fits a logistic regression over these features on validation texts, or takes the best single
   part if that is better.
4. `commit_evidence`: writes the folder `evidence` inside the model's folder, with the manifest last.

Output: `Evidence`. Its `combine` turns the cascade's best labels of some texts into the model's best labels.
"""

from cxml.evidence.combination import (
    CANDIDATES,
    CASCADE,
    Combination,
    Pairs,
    candidate_pairs,
    choose_combination,
    feature_names,
    rank,
    scoring_methods,
)
from cxml.evidence.evidence import Evidence
from cxml.evidence.files import (
    EVIDENCE,
    FOLDERS,
    REMEDY,
    commit_evidence,
    evidence_folder,
    read_evidence,
    read_uncombined,
    source_url,
    write_evidence,
    write_labels,
)
from cxml.evidence.names import NameSource
from cxml.evidence.nearest import list_centres, load_faiss, nearest_lists, num_lists, sample_size, unit_rows
from cxml.evidence.neighbours import NeighbourSource
from cxml.evidence.source import LabelSubset, Proposals, Source, TextViews
from cxml.evidence.vectors import LabelledVectors, indexed, write_lists, write_part
from cxml.evidence.word_model import WordModel, train_word_model
from cxml.evidence.words import WordSource

__all__ = [
    "CANDIDATES",
    "CASCADE",
    "EVIDENCE",
    "FOLDERS",
    "REMEDY",
    "Combination",
    "Evidence",
    "LabelSubset",
    "LabelledVectors",
    "NameSource",
    "NeighbourSource",
    "Pairs",
    "Proposals",
    "Source",
    "TextViews",
    "WordModel",
    "WordSource",
    "candidate_pairs",
    "choose_combination",
    "commit_evidence",
    "evidence_folder",
    "feature_names",
    "indexed",
    "list_centres",
    "load_faiss",
    "nearest_lists",
    "num_lists",
    "rank",
    "read_evidence",
    "read_uncombined",
    "sample_size",
    "scoring_methods",
    "source_url",
    "train_word_model",
    "unit_rows",
    "write_evidence",
    "write_labels",
    "write_lists",
    "write_part",
]
