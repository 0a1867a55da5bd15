"""Group ids: any readable text."""

from __future__ import annotations

import unicodedata

from .. import errors

#: Longest group id, in bytes of UTF-8.
MAX_GROUP_ID_BYTES = 255

#: Control characters, surrogates, line and paragraph separators: they break log lines and tables.
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})


def check_group_id(group_id: str) -> None:
    """Raises ``InvalidGroupId`` unless it is 1 to 255 bytes of UTF-8 without control characters."""
    if not group_id:
        raise errors.InvalidGroupId("the group id is empty", bad_field="group_id")
    # A character is a byte at least: the length decides before anything is encoded.
    too_long = len(group_id) > MAX_GROUP_ID_BYTES
    if not too_long and any(unicodedata.category(character) in _FORBIDDEN_CATEGORIES for character in group_id):
        raise errors.InvalidGroupId("the group id holds a control character", bad_field="group_id")
    if too_long or len(group_id.encode()) > MAX_GROUP_ID_BYTES:
        raise errors.InvalidGroupId(
            f"the group id is longer than {MAX_GROUP_ID_BYTES} bytes", bad_field="group_id", limit=MAX_GROUP_ID_BYTES
        )
