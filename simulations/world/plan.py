"""What goes wrong in a world, drawn before it begins: options in, numbered faults out.

Every item of the menu is there with a chance of one half, and draws from a stream of its own, so that taking one
fault away leaves all others as they were (a failing seed is made small by that). Two items always happen, for
without them a run proves nothing: a partition, and crashes that are aimed at writes under way.

Two kinds of hosts are cast beforehand. *Hostile* ones are members that lie. *Fragile* ones are those whose disks
lose what was synced (a flipped bit, a backup played back): at most min(3, members) - 1 of them, for more lost
disks than that nobody promises to survive. This file refuses to touch the world; `faults` carries out what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from p2pnode.env import Rng
from p2pnode.errors import UsageError
from p2pnode.services.authoring import COPIES
from simulations.world.chance import stream
from simulations.world.options import WorldOptions

#: The last part of a storm, in which no fault begins: one that starts with the heal has no time to hurt.
LAST_BEGIN = 0.8
#: A crash strikes in one of so many disk operations from the beginning of a write: before, in and after its commit.
CRASH_OPERATIONS = 4


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong. Times in seconds after its storm begins; `hosts` are indices."""

    number: int
    kind: str
    round: int
    at_s: float
    for_s: float
    #: Whom it befalls; for a partition one side, for a link its two ends; empty is everybody.
    hosts: tuple[int, ...] = ()
    #: How bad: a rate, seconds, or a share, as the kind has it.
    amount: float = 0.0

    def __str__(self) -> str:
        who = ", ".join(f"n{index:03}" for index in self.hosts) or "all"
        what = f"{self.kind} ({self.amount:.3g})" if self.amount else self.kind
        return f"{self.number}: {what}, storm {self.round} +{self.at_s:.1f} s for {self.for_s:.1f} s, on {who}"


@dataclass(frozen=True, slots=True)
class Cast:
    """Who plays which part, by index."""

    hostile: tuple[int, ...]
    fragile: tuple[int, ...]
    honest: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Draft:
    """A fault without number, kind and round."""

    at_s: float
    for_s: float
    hosts: tuple[int, ...] = ()
    amount: float = 0.0


_Draw = Callable[[Rng, WorldOptions, Cast], Iterator[_Draft]]


def cast(options: WorldOptions) -> Cast:
    """The parts of this seed. The founder is honest and its disk sound."""
    rng = stream(options.seed, "cast")
    order = rng.sample(range(1, options.nodes), options.nodes - 1)
    liars = min(options.hostiles_max, (options.nodes - 1) // 3)
    lost = min(COPIES, options.nodes) - 1
    hostile, fragile = order[:liars], order[liars : liars + lost]
    honest = (index for index in range(options.nodes) if index not in hostile)
    return Cast(tuple(sorted(hostile)), tuple(sorted(fragile)), tuple(honest))


def plan(options: WorldOptions) -> tuple[Fault, ...]:
    """Everything that goes wrong in this world, by number. Raises UsageError for a fault that is not on the menu."""
    unknown = [kind for kind in options.faults or () if kind not in MENU]
    if unknown:
        raise UsageError(f"no such fault: {', '.join(unknown)}", advice=f"There are {', '.join(sorted(MENU))}.")
    parts = cast(options)
    faults: list[Fault] = []
    for kind, draw in MENU.items():
        if not _happens(kind, options):
            continue
        for number in range(1 if kind in ONCE else options.rounds):
            for draft in draw(stream(options.seed, "fault", kind, number), options, parts):
                fault = Fault(len(faults) + 1, kind, number, draft.at_s, draft.for_s, draft.hosts, draft.amount)
                faults.append(fault)
    return tuple(fault for fault in faults if fault.number not in options.drop)


def _happens(kind: str, options: WorldOptions) -> bool:
    if kind in ALWAYS:
        return True
    if options.faults is not None:
        return kind in options.faults
    return stream(options.seed, "menu", kind).random() < options.fault_chance


def _span(rng: Rng, options: WorldOptions, least_s: float, most_s: float) -> tuple[float, float]:
    """When it begins and how long it lasts: it ends with its storm at the latest."""
    at_s = rng.uniform(0, LAST_BEGIN * options.storm_s)
    return at_s, min(rng.uniform(least_s, most_s), options.storm_s - at_s)


def _weather(most: Callable[[WorldOptions], float]) -> _Draw:
    """It befalls every link, all storm long."""

    def draw(rng: Rng, options: WorldOptions, parts: Cast) -> Iterator[_Draft]:
        yield _Draft(0.0, options.storm_s, amount=rng.uniform(0, most(options)))

    return draw


def _partition(rng: Rng, options: WorldOptions, parts: Cast) -> Iterator[_Draft]:
    side = rng.sample(range(options.nodes), rng.randint(1, options.nodes // 2))
    at_s = rng.uniform(0, 0.3 * options.storm_s)
    # Half of them last until the heal.
    yield _Draft(at_s, min(rng.uniform(0.3, 1.1) * options.storm_s, options.storm_s - at_s), tuple(sorted(side)))


def _one_way(rng: Rng, options: WorldOptions, parts: Cast) -> Iterator[_Draft]:
    """These are heard by nobody else, and hear everybody."""
    side = rng.sample(range(options.nodes), rng.randint(1, max(1, options.nodes // 4)))
    yield _Draft(*_span(rng, options, 2.0, 0.5 * options.storm_s), tuple(sorted(side)))


def _spike(rng: Rng, options: WorldOptions, parts: Cast) -> Iterator[_Draft]:
    """Packets of one host take many seconds; they arrive all the same."""
    for _ in range(rng.randint(1, 2)):
        yield _Draft(*_span(rng, options, 0.5, 5.0), (rng.randrange(options.nodes),), rng.uniform(1.0, options.spike_s))


def _skew(rng: Rng, options: WorldOptions, parts: Cast) -> Iterator[_Draft]:
    """Wall clocks jump; they stay wrong."""
    for host in rng.sample(range(options.nodes), rng.randint(1, max(1, options.nodes // 3))):
        at_s, _ = _span(rng, options, 0, 0)
        yield _Draft(at_s, options.storm_s - at_s, (host,), rng.uniform(-options.skew_max_s, options.skew_max_s))


def _drift(rng: Rng, options: WorldOptions, parts: Cast) -> Iterator[_Draft]:
    for host in rng.sample(range(options.nodes), rng.randint(1, max(1, options.nodes // 3))):
        yield _Draft(0.0, options.storm_s, (host,), rng.uniform(-options.drift_max, options.drift_max))


def _crash(rng: Rng, options: WorldOptions, parts: Cast) -> Iterator[_Draft]:
    """In the middle of a write; `amount` says in which of its disk's next operations."""
    for _ in range(rng.randint(2, 4)):
        away_s = rng.uniform(*options.away_s)
        at_s, _ = _span(rng, options, 0, 0)
        yield _Draft(at_s, away_s, (rng.choice(parts.honest),), rng.randint(1, CRASH_OPERATIONS))


def _blackout(rng: Rng, options: WorldOptions, parts: Cast) -> Iterator[_Draft]:
    """Many machines lose their power at one moment."""
    dark = rng.sample(parts.honest, max(2, len(parts.honest) // 2))
    at_s, _ = _span(rng, options, 0, 0)
    yield _Draft(at_s, rng.uniform(*options.away_s), tuple(sorted(dark)))


def _slow_fsync(rng: Rng, options: WorldOptions, parts: Cast) -> Iterator[_Draft]:
    host = rng.choice(parts.honest)
    yield _Draft(*_span(rng, options, 3.0, 10.0), (host,), rng.uniform(0.05, options.slow_fsync_max_s))


def _disk_error(rng: Rng, options: WorldOptions, parts: Cast) -> Iterator[_Draft]:
    """A disk that fails for a while; `amount` is the chance for each write or sync."""
    yield _Draft(*_span(rng, options, 2.0, 8.0), (rng.choice(parts.honest),), rng.uniform(0.05, 0.5))


def _disk_full(rng: Rng, options: WorldOptions, parts: Cast) -> Iterator[_Draft]:
    yield _Draft(*_span(rng, options, 3.0, 10.0), (rng.choice(parts.honest),))


def _damage(rng: Rng, options: WorldOptions, parts: Cast) -> Iterator[_Draft]:
    """A fragile disk gives back something else than what was written, once its machine starts again."""
    if parts.fragile:
        at_s, _ = _span(rng, options, 0, 0)
        yield _Draft(at_s, rng.uniform(*options.away_s), (rng.choice(parts.fragile),))


def _pause(rng: Rng, options: WorldOptions, parts: Cast) -> Iterator[_Draft]:
    """A process stands still for seconds, as under SIGSTOP or a heavy collection."""
    for _ in range(rng.randint(1, 2)):
        at_s, _ = _span(rng, options, 0, 0)
        yield _Draft(at_s, options.pause_s, (rng.choice(parts.honest),))


def _join(rng: Rng, options: WorldOptions, parts: Cast) -> Iterator[_Draft]:
    for _ in range(rng.randint(1, 2)):
        at_s, _ = _span(rng, options, 0, 0)
        yield _Draft(at_s, options.storm_s - at_s)


def _leave(rng: Rng, options: WorldOptions, parts: Cast) -> Iterator[_Draft]:
    """For good: one that does not define, so that those who write stay."""
    going = [index for index in parts.honest if not options.roles[index].defines]
    if len(going) > 1:
        at_s, _ = _span(rng, options, 0, 0)
        yield _Draft(at_s, options.storm_s - at_s, (rng.choice(going),))


def _slander(rng: Rng, options: WorldOptions, parts: Cast) -> Iterator[_Draft]:
    """Always the same one: against a single liar everybody is safe, two together can say what two honest ones can."""
    if parts.hostile:
        yield _Draft(*_span(rng, options, 3.0, 0.5 * options.storm_s), parts.hostile[:1])


def _narrow(rng: Rng, options: WorldOptions, parts: Cast) -> Iterator[_Draft]:
    """From beginning to end (see `narrow`)."""
    yield _Draft(0.0, options.storm_s)


def _hostile(rng: Rng, options: WorldOptions, parts: Cast) -> Iterator[_Draft]:
    if parts.hostile:
        yield _Draft(*_span(rng, options, 3.0, 0.5 * options.storm_s), (rng.choice(parts.hostile),))


#: Every fault, in the order of numbering.
MENU: dict[str, _Draw] = {
    "partition": _partition,
    "crash": _crash,
    "loss": _weather(lambda options: options.loss_max),
    "duplication": _weather(lambda options: options.duplication_max),
    "reorder": _weather(lambda options: options.reorder_max_s),
    "one_way": _one_way,
    "spike": _spike,
    "skew": _skew,
    "drift": _drift,
    "blackout": _blackout,
    "pause": _pause,
    "slow_fsync": _slow_fsync,
    "disk_error": _disk_error,
    "disk_full": _disk_full,
    "bit_flip": _damage,
    "stale_restore": _damage,
    "narrow": _narrow,
    "join": _join,
    "leave": _leave,
    "equivocate": _hostile,
    "forge_height": _hostile,
    "forge_sequence": _hostile,
    "garbage": _hostile,
    "withhold": _hostile,
    "forge_signature": _hostile,
    "oversize": _hostile,
    "false_down": _slander,
    "slander": _slander,
}

#: A run without these proves nothing.
ALWAYS = ("partition", "crash")
#: These are not a storm's but the whole run's.
ONCE = ("narrow",)
