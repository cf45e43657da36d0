"""What the swarm knows, folded from its set of events: members, names, datasets and their versions.

The fold depends on the set alone, never on the order in which events came; `apply` is its incremental form.

- Who is a member, who left and who is down is `roster`'s.
- A dataset exists as long as one of its define events, or a version that stands, is not named by a delete: deletes
  take away what their author had seen, so a concurrent addition wins. Of two with one name the earlier claim has it.
- A version takes the place of those it names in `over`; those whose place nobody took are its *tips*. Tips
  that only add shards to one common root fold to their union. Otherwise the highest tip (height, id) wins,
  with those that unite with it, and the rest stay visible as siblings (`versions` does this).

Manifests come from outside by content id (the clock admits a version only when its block is here). One that
does not read, or is of another dataset, counts as a version without content. This file refuses IO.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import libipld

from p2pnode.core import records
from p2pnode.core.definitions import Definitions
from p2pnode.core.event import Event
from p2pnode.core.model import DatasetRecord, Manifest, Member
from p2pnode.core.roster import Roster
from p2pnode.core.versions import VersionHistory

Manifests = Callable[[bytes], Manifest | None]


@dataclass(slots=True)
class _Dataset:
    dataset_id: str
    history: VersionHistory
    definitions: Definitions = field(default_factory=Definitions)

    @property
    def deleted(self) -> set[bytes]:
        return self.definitions.gone

    def exists(self) -> bool:
        return bool(self.definitions) and (self.definitions.stands or bool(self.history.tips(self.deleted)))

    def record(self) -> DatasetRecord:
        _, said = self.definitions.current()
        folded = self.history.fold(self.deleted)
        return DatasetRecord(
            dataset_id=self.dataset_id,
            name=said.name,
            description=said.description,
            schema=said.schema,
            version=folded.version,
            manifest=folded.manifest,
            siblings=folded.siblings,
        )


class Catalog:
    """The state. Lookups cost what they return; folding one event costs what it touches."""

    def __init__(self, manifests: Manifests) -> None:
        self._manifests = manifests
        self._roster = Roster()
        self._datasets: dict[str, _Dataset] = {}
        self._records: dict[str, DatasetRecord] = {}
        #: name -> who claims it, and since when; and the name that each dataset claims.
        self._claims: dict[str, dict[str, bytes]] = {}
        self._claimed: dict[str, str] = {}

    @classmethod
    def fold(cls, events: Iterable[Event], manifests: Manifests) -> Catalog:
        """The state of a set of events, from scratch."""
        catalog = cls(manifests)
        for event in events:
            catalog.apply(event)
        return catalog

    def apply(self, event: Event) -> None:
        """Add one event that the clock admitted. Applying it twice changes nothing."""
        if event.kind in (records.DEFINE, records.VERSION, records.DELETE):
            self._apply_to_dataset(event)
        else:
            self._roster.apply(event)

    def _apply_to_dataset(self, event: Event) -> None:
        dataset_id = event.object_id
        dataset = self._datasets.get(dataset_id)
        if dataset is None:
            dataset = self._begin(dataset_id)
        if event.kind == records.DEFINE:
            dataset.definitions.add(event.rank, records.read_define(event))
        elif event.kind == records.VERSION:
            dataset.history.add(event.order, records.read_version(event))
        else:
            dataset.definitions.take_away(records.read_delete(event))
        self._records.pop(dataset_id, None)
        self._claim_name(dataset)

    def _begin(self, dataset_id: str) -> _Dataset:
        dataset = _Dataset(dataset_id, VersionHistory(dataset_id, self._manifests))
        self._datasets[dataset_id] = dataset
        return dataset

    def _claim_name(self, dataset: _Dataset) -> None:
        before = self._claimed.pop(dataset.dataset_id, None)
        if before is not None:
            del self._claims[before][dataset.dataset_id]
        if dataset.exists():
            since, said = dataset.definitions.current()
            self._claimed[dataset.dataset_id] = said.name
            self._claims.setdefault(said.name, {})[dataset.dataset_id] = since

    # -- kept over a restart ---------------------------------------------------------------------------------

    def dump(self) -> dict[str, Any]:
        """The fold as plain data (lists, text, bytes, numbers), for `load`. Costs the size of the lists."""
        return {
            "members": self._roster.dump(),
            "datasets": [
                [dataset.dataset_id, dataset.definitions.dump(), dataset.history.dump()]
                for dataset in self._datasets.values()
            ],
        }

    @classmethod
    def load(cls, dump: dict[str, Any], manifests: Manifests) -> Catalog:
        """The catalog that gave that dump, as if every event had been applied. No manifest is read for it.

        The dump is trusted: whoever keeps it checks that it is whole.
        """
        catalog = cls(manifests)
        catalog._roster = Roster.load(dump["members"])
        for dataset_id, definitions, history in dump["datasets"]:
            dataset = catalog._begin(dataset_id)
            dataset.definitions.load(definitions)
            dataset.history.load(history)
            catalog._claim_name(dataset)
        return catalog

    # -- members -------------------------------------------------------------------------------------------

    def members(self) -> list[Member]:
        """Those who have not left, by peer id; those who are down among them, for they may return."""
        return [member for member in self._roster.everyone().values() if not member.left]

    def present(self) -> list[Member]:
        """Those who neither left nor are down, by peer id: whom durability counts on."""
        return [member for member in self._roster.everyone().values() if not (member.left or member.down)]

    def everyone(self) -> list[Member]:
        """Members present and past, by peer id."""
        return list(self._roster.everyone().values())

    def member(self, peer_id: str) -> Member | None:
        """The member with that peer id, also when it has left."""
        return self._roster.everyone().get(peer_id)

    def member_named(self, node_id: str) -> Member | None:
        """The member that owns that node_id and has not left."""
        return self._roster.named(node_id)

    def witnesses(self, peer_id: str) -> list[str]:
        """Who said so far that this member's last `up` ended; sorted."""
        return self._roster.witnesses(peer_id)

    def readmissions(self, peer_id: str) -> list[bytes]:
        """The readmit events about this member that it did not take up yet, oldest first."""
        return self._roster.readmissions(peer_id)

    @property
    def witnesses_needed(self) -> int:
        """How many must have said so before a member is down."""
        return self._roster.witnesses_needed

    # -- datasets ------------------------------------------------------------------------------------------

    def datasets(self) -> list[DatasetRecord]:
        """All that exist, by name and id; one that lost its name to an earlier one is here too."""
        found = [self._record(dataset) for dataset in self._datasets.values() if dataset.exists()]
        return sorted(found, key=lambda record: (record.name, record.dataset_id))

    def dataset(self, name_or_id: str) -> DatasetRecord | None:
        """The dataset with that id, else the one that owns that name."""
        dataset = self._datasets.get(name_or_id)
        if dataset is None or not dataset.exists():
            dataset = self._owner(name_or_id)
        return None if dataset is None else self._record(dataset)

    def observed(self, dataset_id: str) -> tuple[bytes, ...]:
        """The events that a delete must name to take away the dataset as it is known here."""
        dataset = self._datasets.get(dataset_id)
        if dataset is None:
            return ()
        return tuple(sorted({*dataset.definitions.left(), *dataset.history.tips(dataset.deleted)}))

    def tips(self, dataset_id: str) -> tuple[bytes, ...]:
        """The version events that nothing replaced yet; sorted."""
        dataset = self._datasets.get(dataset_id)
        return dataset.history.tips(dataset.deleted) if dataset else ()

    def of_publish(self, dataset_id: str, publish: str) -> bytes | None:
        """The version event that carries out that publish already, if there is one."""
        dataset = self._datasets.get(dataset_id)
        return dataset.history.of_publish(publish) if dataset and publish else None

    def versions(self, dataset_id: str) -> list[tuple[bytes, records.Version]]:
        """Every version event of a dataset with its id, oldest first: what time travel chooses from."""
        dataset = self._datasets.get(dataset_id)
        return dataset.history.listed() if dataset else []

    def union(self, version: bytes) -> Manifest | None:
        """The union of concurrent versions with that content id, of any dataset; None if there was none."""
        unions = (dataset.history.union(version, dataset.deleted) for dataset in self._datasets.values())
        return next((manifest for manifest in unions if manifest is not None), None)

    def digest(self) -> bytes:
        """32 bytes that are equal for equal states; protocols/SPEC.md tells what they are the hash of."""
        members = [
            [
                m.peer_id,
                m.node_id,
                m.role.value,
                m.region,
                m.weight,
                m.left,
                m.down,
                m.up,
                list(m.addresses),
                list(m.capabilities),
            ]
            for m in self.everyone()
        ]
        owners = {name: self._owner(name) for name in sorted(self._claims)}
        names = [[name, owner.dataset_id] for name, owner in owners.items() if owner is not None]
        datasets = [
            [r.dataset_id, r.name, r.description, r.schema, r.version, list(r.siblings), list(self.tips(r.dataset_id))]
            for r in self.datasets()
        ]
        return hashlib.sha256(libipld.encode_dag_cbor([members, names, datasets])).digest()

    def _record(self, dataset: _Dataset) -> DatasetRecord:
        record = self._records.get(dataset.dataset_id)
        if record is None:
            record = self._records[dataset.dataset_id] = dataset.record()
        return record

    def _owner(self, name: str) -> _Dataset | None:
        claims = self._claims.get(name)
        if not claims:
            return None
        return self._datasets[min((since, dataset_id) for dataset_id, since in claims.items())[1]]
