"""What a server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ultraedit.service.batcher import Batcher
from ultraedit.service.sets import Sets
from ultraedit.service.turns import Turns

SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.turns = Counter("ultraedit_turns", "Turns written", registry=self.registry)
        self.edits = Counter("ultraedit_edits", "Edits written", registry=self.registry)
        self.learned = Counter(
            "ultraedit_edits_learned", "Edits that were learned in their turn",
            registry=self.registry,
        )  # fmt: skip
        self.turn_seconds = Histogram(
            "ultraedit_turn_seconds", "Seconds of a turn", buckets=SECONDS, registry=self.registry
        )
        self.requests = Counter(
            "ultraedit_requests", "Requests by route and status", ["route", "status"],
            registry=self.registry,
        )  # fmt: skip
        self.first_byte = Histogram(
            "ultraedit_request_seconds", "Seconds until an answer began", ["route"],
            buckets=(0.01, *SECONDS), registry=self.registry,
        )  # fmt: skip

    def turn(self, seconds: float, edits: int, learned: int) -> None:
        """A turn was written."""
        self.turns.inc()
        self.edits.inc(edits)
        self.learned.inc(learned)
        self.turn_seconds.observe(seconds)

    def watch(self, batcher: Batcher, sets: Sets, turns: Turns) -> None:
        """Read the present state of these whenever somebody asks."""
        for name, what, value in (
            ("ultraedit_generations_running", "Answers being decoded", lambda: batcher.running),
            ("ultraedit_generations_waiting", "Answers not begun", lambda: batcher.waiting),
            ("ultraedit_tokens_generated", "Tokens since the start", lambda: batcher.generated),
            ("ultraedit_edit_jobs_waiting", "Jobs in the queue", lambda: turns.waiting),
            ("ultraedit_sets", "Edit sets", lambda: len(sets.names())),
            ("ultraedit_sets_loaded", "Edit sets in memory", lambda: sets.loaded()[0]),
            ("ultraedit_overlay_bytes", "Memory of their factors", lambda: sets.loaded()[1]),
        ):
            Gauge(name, what, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
