"""Settings from the data: values for the fields of a config that the user leaves open (docs/decisions/0028).

In: a config whose `auto` names such fields, and what there is to train on.

1. `gather` collects `Facts` once: sizes of the data set, the encoder's files, the machine.
2. `rules` has a pure function for each field: facts and the config so far -> value and reason.
3. `choose` goes through the rules in order. What the user gave stays, and the rules after it adapt to it.

Out: a config without open fields, and the list of choices, which `table` shows and `record` keeps for the next start.

`longest_text` stands apart: it is asked before the texts are tokenised.
"""

from cxml.settings.choose import Choice, choose, choose_by_length, fit_to_labels
from cxml.settings.facts import EncoderFacts, Facts, MachineFacts
from cxml.settings.gather import encoder_facts, facts_of, longest_possible, machine_facts, prepared_facts
from cxml.settings.lengths import longest_text
from cxml.settings.record import add_to_record, read_budget, read_record, write_budget, write_record
from cxml.settings.table import choices_table

__all__ = [
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
    "longest_text",
    "machine_facts",
    "prepared_facts",
    "read_budget",
    "read_record",
    "write_budget",
    "write_record",
]
