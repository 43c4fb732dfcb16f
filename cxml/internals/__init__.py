"""The private parts of other libraries that cxml uses: one module per library, and no other module uses any.

Each module names the version in which its private parts were last seen (`SEEN_IN`) and lists them (`NAMES`). A new
version of a library may rename or remove them; `tests/test_internals.py` then names what is gone and who needs it.
"""
