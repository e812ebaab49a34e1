"""Reading edits and their probes from files and from the hub."""

from ultraedit.data.contradictions import Contradictions
from ultraedit.data.faults import Fault
from ultraedit.data.reader import UnreadFieldWarning, read_cases, read_probes

__all__ = ["Contradictions", "Fault", "UnreadFieldWarning", "read_cases", "read_probes"]
