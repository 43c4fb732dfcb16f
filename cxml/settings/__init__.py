"""Settings from the data: values for the config fields that the user leaves open (docs/decisions/0028).

Input: a config whose `auto` names such fields, and the training data.

1. `gather` collects `Facts` once: sizes of the data set, the encoder's files, the machine.
2. `rules` has a pure function for each field: facts and the config so far -> value and reason.
3. `choose` applies the rules in order. It keeps the user's values, and later rules adapt to them.

Output: a config without open fields, and the list of choices. `table` shows them, and `record` keeps them for a resumed
run.

`data.max_length` must be set before, because the texts are tokenised with it.
"""

from cxml.settings.choose import Choice, choose, choose_by_length, fit_to_labels
from cxml.settings.facts import EncoderFacts, Facts, MachineFacts
from cxml.settings.gather import (
    MOST_TOKENS_ON_CPU,
    encoder_facts,
    facts_of,
    longest_possible,
    machine_facts,
    prepared_facts,
)
from cxml.settings.record import add_to_record, read_budget, read_record, write_budget, write_record
from cxml.settings.rules import words_may_read_texts
from cxml.settings.table import choices_table

__all__ = [
    "MOST_TOKENS_ON_CPU",
    "Choice",
    "EncoderFacts",
    "Facts",
    "MachineFacts",
    "add_to_record",
    "choices_table",
    "choose",
    "choose_by_length",
    "encoder_facts",
    "facts_of",
    "fit_to_labels",
    "longest_possible",
    "machine_facts",
    "prepared_facts",
    "read_budget",
    "read_record",
    "words_may_read_texts",
    "write_budget",
    "write_record",
]
