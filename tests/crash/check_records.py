"""What was promised about records: invariants 1 to 4."""

from __future__ import annotations

from collections.abc import Iterator

from .history import Event
from .model import Model, Place, Produce, Violation
from .values import sender_of

#: Definite failures that an idempotent producer, which goes on only when it has its answer, must never get.
FORGOTTEN = ("OUT_OF_ORDER_SEQUENCE", "UNKNOWN_PRODUCER_ID")


def check_kept(model: Model) -> Iterator[Violation]:
    """1. What was acknowledged, and what was read, is in every later drain at its offset."""
    for drain in model.drains:
        place = model.place_of(drain)
        records = {offset: identity for offset, identity, _ in drain["records"]}
        for offset, identity, event in _owed(model, place, drain["n"]):
            found = records.get(offset)
            if found == identity or offset < drain["start"] or (found is None and model.damaged(place, offset)):
                continue
            how = "was read" if event["e"] == "read" else f"was acknowledged at {_acks(model, event)}"
            yield Violation(
                1,
                f"{identity} {how} at {_at(place, offset)}; drain {drain['name']!r} has {found or 'nothing'} there",
                (*_with_invoke(model, event), _short(drain)),
            )
    drained = {model.place_of(drain)[0] for drain in model.drains}
    for produce in model.produces:
        # Topics with a number sign come and go during a run.
        if produce.outcome == "ok" and produce.topic not in drained and "#" not in produce.topic:
            yield Violation(1, f"topic {produce.topic} was produced to and could not be drained", produce.events)
            return


def _owed(model: Model, place: Place, before: int) -> Iterator[tuple[int, str, Event]]:
    for produce in model.produces:
        if produce.topic == place[0] and produce.ended < before and model.promised(produce) and produce.end:
            for at, offset, identity in produce.answered():
                if at == place:
                    yield offset, identity, produce.end
    for read in model.reads:
        if read["n"] < before and model.place_of(read) == place:
            for offset, identity, _ in read["records"]:
                yield offset, identity, read


def _seen(model: Model) -> Iterator[tuple[Place, int, str, Event]]:
    """Every record that was told of at a place: by answers, reads and drains."""
    for produce in model.produces:
        if model.promised(produce) and produce.end:
            for place, offset, identity in produce.answered():
                yield place, offset, identity, produce.end
    for event in (*model.reads, *model.drains):
        place = model.place_of(event)
        for offset, identity, _ in event["records"]:
            yield place, offset, identity, event


def check_values(model: Model) -> Iterator[Violation]:
    """2 and 4. One value, one offset, and the other way round; nothing that nobody sent, or that failed."""
    place_of: dict[tuple[str, str], tuple[Place, int, Event]] = {}
    value_at: dict[tuple[Place, int], tuple[str, Event]] = {}
    for place, offset, identity, event in _seen(model):
        other, other_event = value_at.setdefault((place, offset), (identity, event))
        if other != identity:
            events = (*_with_invoke(model, other_event), *_with_invoke(model, event))
            yield Violation(4, f"{_at(place, offset)} holds {other} and {identity}", events)
        key = (place[0], identity)
        if key not in place_of:
            place_of[key] = (place, offset, event)
            yield from _check_sent(model, place, offset, identity, event)
            continue
        first_place, first_offset, first_event = place_of[key]
        if (first_place, first_offset) != (place, offset):
            events = (*_with_invoke(model, first_event), *_with_invoke(model, event))
            yield Violation(2, f"{identity} is at {_at(first_place, first_offset)} and at {_at(place, offset)}", events)
    for produce in model.produces:
        if produce.invoke.get("fenced") and produce.outcome == "ok":
            yield Violation(2, "a producer whose epoch is over was let write", produce.events)
        elif produce.invoke.get("idempotent") and produce.end and produce.end.get("reason") in FORGOTTEN:
            yield Violation(2, "what an idempotent producer had written was forgotten", produce.events)


def _check_sent(model: Model, place: Place, offset: int, identity: str, event: Event) -> Iterator[Violation]:
    senders = model.senders.get((place[0], identity), [])
    if not senders:
        yield Violation(2, f"{_at(place, offset)} holds {identity}, which nobody sent", (_short(event),))
        return
    if all(produce.outcome == "fail" for produce in senders):
        yield Violation(
            2, f"{_at(place, offset)} holds {identity}, which failed definitely", (*senders[0].events, _short(event))
        )
    asked = {int(produce.invoke["partition"]) for produce in senders}
    if place[1] not in asked and -1 not in asked:
        yield Violation(2, f"{identity} is at {_at(place, offset)}, sent to another", senders[0].events)
    if all(produce.begun > event["n"] for produce in senders):
        yield Violation(2, f"{identity} was there before it was sent", (_short(event), senders[0].invoke))


def check_dense(model: Model) -> Iterator[Violation]:
    """3. A drained partition has every offset, and each producer's records in their order."""
    for drain in model.drains:
        place = model.place_of(drain)
        expected = drain["start"]
        lost = [tuple(loss) for loss in drain.get("losses", ())]
        for first, last in lost:
            if not all(model.damaged(place, offset) for offset in range(first, min(last, first + 100_000) + 1)):
                yield Violation(
                    3, f"{_at(place, first)} to {last} cannot be read, and nobody damaged it", (_short(drain),)
                )
        for offset, _, _ in drain["records"]:
            while any(first <= expected <= last for first, last in lost):
                expected = next(last for first, last in lost if first <= expected <= last) + 1
            if offset != expected:
                yield Violation(
                    3, f"{_at(place, expected)} is missing: {offset} follows {expected - 1}", (_short(drain),)
                )
            expected = offset + 1
        while any(first <= expected <= last for first, last in lost):
            expected = next(last for first, last in lost if first <= expected <= last) + 1
        if expected < drain["hw"]:
            yield Violation(
                3, f"{_at(place, expected)} is missing: the high watermark is {drain['hw']}", (_short(drain),)
            )
        yield from _check_order(model, drain, place)


def _check_order(model: Model, drain: Event, place: Place) -> Iterator[Violation]:
    """A record must not stand behind one that its producer sent later: unless its own call went unanswered, so that
    the server may have come to it at any later time. Streams and idempotent producers keep the order even then."""
    newest: dict[str, tuple[int, Produce]] = {}
    newest_in: dict[str, int] = {}
    for offset, identity, _ in drain["records"]:
        senders = model.senders.get((place[0], identity))
        if not senders:
            continue  # reported as sent by nobody
        produce = senders[0]
        producer, sequence = sender_of(identity)
        stream = produce.invoke.get("stream")
        before = newest.get(producer)
        late = before is not None and sequence < before[0]
        strict = produce.invoke.get("idempotent") or any(each.outcome == "ok" for each in senders)
        if late and before and (strict or (stream and sequence < newest_in.get(stream, -1))):
            yield Violation(
                3,
                f"{identity} at {_at(place, offset)} stands behind sequence {before[0]} of the same producer",
                (*produce.events, *before[1].events, _short(drain)),
            )
        if before is None or sequence > before[0]:
            newest[producer] = (sequence, produce)
        if stream:
            newest_in[stream] = max(sequence, newest_in.get(stream, -1))


def check_losses(model: Model) -> Iterator[Violation]:
    """1. No read is answered with DATA_LOSS where nothing was damaged."""
    for op in model.ops.values():
        if op.end and op.end.get("status") == "DATA_LOSS" and not model.damages:
            yield Violation(1, "a read was answered with DATA_LOSS", op.events)


def _with_invoke(model: Model, event: Event) -> tuple[Event, ...]:
    op = model.ops.get(event.get("op", -1))
    return (op.invoke, _short(event)) if op else (_short(event),)


def _short(event: Event) -> Event:
    """Without the records, which may be many."""
    if len(event.get("records", ())) <= 3:
        return event
    return {**event, "records": f"{len(event['records'])} records"}


def _acks(model: Model, event: Event) -> int:
    return int(model.ops[event["op"]].invoke["acks"])


def _at(place: Place, offset: int) -> str:
    return f"{place[0]}-{place[1]} offset {offset}"
