"""Consumer groups: who reads for a group at this moment, and how far the group has come."""

from .groups import DEAD, EMPTY, PROTOCOL_TYPE, STABLE, Groups, GroupView, Member
from .ids import MAX_GROUP_ID_BYTES, check_group_id

__all__ = [
    "DEAD",
    "EMPTY",
    "MAX_GROUP_ID_BYTES",
    "PROTOCOL_TYPE",
    "STABLE",
    "GroupView",
    "Groups",
    "Member",
    "check_group_id",
]
