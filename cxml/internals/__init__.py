"""The private parts of other libraries that cxml uses: one module per library. No other module uses private parts.

Each module names the last version that was checked (`SEEN_IN`) and lists the private parts (`NAMES`). A new version of
a library may rename or remove them; `tests/test_internals.py` then fails with the missing names and the modules that
use them.
"""
