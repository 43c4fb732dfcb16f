"""Labels by name, as the matrices that metrics take."""

from __future__ import annotations

from collections.abc import Sequence

from scipy import sparse

from cxml.data import Ragged
from cxml.data.dataset import indicators


def indicators_of(names: Sequence[Sequence[str]], known: Sequence[str]) -> sparse.csr_matrix:
    """Indicators of N texts' labels, CSR float32 [N, L and one column for each name that is not known].

    Args:
        names: of each text's labels; one that is there twice counts once.
        known: names of the L labels.
    """
    id_of = {name: number for number, name in enumerate(known)}
    ids = [sorted({id_of.setdefault(name, len(id_of)) for name in each}) for each in names]
    return indicators(Ragged.from_lists(ids), len(id_of))
