"""A disk with a volatile cache, fed from a trace: what a power cut may leave of a directory.

What POSIX, and Linux on ext4, XFS or btrfs with barriers, promise, is taken to be this and no more:

* ``fsync`` and ``fdatasync`` of a file make its contents and size durable, as far as they were
  written before the call began. They do not make its name durable (ext4 does; POSIX does not say so).
* ``fsync`` of a directory makes its entries durable: what was made, linked, renamed or removed in
  it before the call began. A rename between two directories needs both.
* ``syncfs`` makes all of it durable, contents and names, as far as it was done before the call began.
* Everything else may be there or not, each change for itself and in any order: a later write
  without an earlier one, a file's size without its bytes (they read as zeros), a name without what
  was written to the file, an ``unlink`` without the ``creat`` that came after it.
* A rename happens or does not: never half. So does making a hard link.
* A write is torn at sectors of 512 bytes, aligned in the file; each sector has the contents of before,
  of after, or of any write between. Within a sector it is all or nothing.
* A directory that is not durable takes everything in it along.
* What was durable stays: no sector changes that was not written.

A journaling filesystem keeps the order of names (a prefix of the changes survives), so the states
here are a superset of what can be met in the field.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .trace import Event, Kind

SECTOR = 512
PAGE = 4096
_ZEROS = bytes(PAGE)


class Content:
    """Sparse bytes. Copies are cheap: pages are shared and never changed in place."""

    __slots__ = ("pages", "size")

    def __init__(self, size: int = 0, pages: dict[int, bytes] | None = None) -> None:
        self.size = size
        self.pages = pages if pages is not None else {}

    @classmethod
    def of_file(cls, path: Path) -> Content:
        """Pages of zeros become holes."""
        data = path.read_bytes()
        pages = {at // PAGE: data[at : at + PAGE].ljust(PAGE, b"\0") for at in range(0, len(data), PAGE)}
        return cls(len(data), {number: page for number, page in pages.items() if page != _ZEROS})

    def copy(self) -> Content:
        return Content(self.size, dict(self.pages))

    def write(self, offset: int, data: bytes) -> None:
        at = 0
        while at < len(data):
            number, start = divmod(offset + at, PAGE)
            part = data[at : at + PAGE - start]
            if len(part) == PAGE:
                self.pages[number] = part
            else:
                page = self.pages.get(number, bytes(PAGE))
                self.pages[number] = page[:start] + part + page[start + len(part) :]
            at += len(part)
        self.size = max(self.size, offset + len(data))

    def resize(self, size: int) -> None:
        if size < self.size:
            number, start = divmod(size, PAGE)
            for later in [n for n in self.pages if n > number or (n == number and start == 0)]:
                del self.pages[later]
            if start and number in self.pages:
                self.pages[number] = self.pages[number][:start] + bytes(PAGE - start)
        self.size = size

    def read(self) -> bytes:
        out = bytearray(self.size)
        for number, page in self.pages.items():
            start = number * PAGE
            out[start : start + PAGE] = page[: max(self.size - start, 0)]
        return bytes(out[: self.size])

    def put(self, path: str) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640)
        try:
            run: list[bytes] = []
            first = -2
            for number in [*sorted(self.pages), -1]:
                if number != first + len(run):
                    if run:
                        os.pwrite(fd, b"".join(run), first * PAGE)
                    run, first = [], number
                if number >= 0:
                    run.append(self.pages[number])
            os.ftruncate(fd, self.size)
        finally:
            os.close(fd)


@dataclass(eq=False, slots=True)
class Inode:
    number: int
    is_dir: bool
    #: Where it was made.
    path: str
    #: What is durable of a file.
    durable: Content = field(default_factory=Content)
    #: Changes since, oldest first.
    pending: list[FileChange] = field(default_factory=list)
    #: Durable names of a directory; and all names.
    entries: dict[str, Inode] = field(default_factory=dict)
    live: dict[str, Inode] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class FileChange:
    """A write (``data``), a truncation (``size``), or an allocation (``size``, never smaller)."""

    index: int
    inode: Inode
    offset: int = 0
    data: bytes = b""
    size: int = -1
    grows: bool = False

    def apply(self, content: Content) -> None:
        if self.size < 0:
            content.write(self.offset, self.data)
        elif self.grows:
            content.resize(max(content.size, self.size))
        else:
            content.resize(self.size)

    def sectors(self) -> list[tuple[int, int]]:
        """[start, end) in ``data`` of what lies in one sector."""
        cuts = [0]
        at = SECTOR - self.offset % SECTOR
        while at < len(self.data):
            cuts.append(at)
            at += SECTOR
        return [*zip(cuts, [*cuts[1:], len(self.data)], strict=True)]


@dataclass(eq=False, slots=True)
class NameChange:
    """Names that appear and vanish together."""

    index: int
    puts: list[tuple[Inode, str, Inode]] = field(default_factory=list)
    removes: list[tuple[Inode, str, Inode]] = field(default_factory=list)
    #: Directories whose flush it still needs.
    needs: set[int] = field(default_factory=set)

    def apply(self, entries: Callable[[Inode], dict[str, Inode]]) -> None:
        for directory, name, inode in self.removes:
            if entries(directory).get(name) is inode:
                del entries(directory)[name]
        for directory, name, inode in self.puts:
            entries(directory)[name] = inode


Change = FileChange | NameChange
#: What becomes of a change that is not durable: all of it, nothing, or ranges of its bytes; SIZE_ONLY
#: for a write whose bytes are lost and whose size is not.
Fate = bool | str | Sequence[tuple[int, int]]
SIZE_ONLY = "size"
Keep = Callable[[Change], Fate]


class Disk:
    """One directory, given all the events of a trace in their order."""

    def __init__(self, root: str, base: Path | None = None) -> None:
        """``root`` is the path in the trace; ``base`` a directory with what is durable from the beginning."""
        self.root_path = root
        self._count = 0
        self.root = self._inode(True, root)
        self.names: list[NameChange] = []
        self._open: dict[tuple[int, int], Inode] = {}
        self._flushing: dict[tuple[int, int], tuple[Inode, int]] = {}
        #: What the event taken last made durable.
        self.made_durable: list[Change] = []
        if base is not None:
            self._load(base, self.root)

    def _load(self, base: Path, into: Inode) -> None:
        for path in sorted(base.iterdir()):
            inode = self._inode(path.is_dir(), f"{into.path}/{path.name}")
            into.entries[path.name] = into.live[path.name] = inode
            if path.is_dir():
                self._load(path, inode)
            else:
                inode.durable = Content.of_file(path)

    def _inode(self, is_dir: bool, path: str) -> Inode:
        self._count += 1
        return Inode(self._count, is_dir, path)

    # -- the trace ------------------------------------------------------------------------------

    def _place(self, path: str) -> tuple[Inode, str]:
        assert path.startswith(self.root_path + "/"), path
        *way, name = path[len(self.root_path) + 1 :].split("/")
        at = self.root
        for step in way:
            at = at.live[step]
        return at, name

    def _find(self, path: str) -> Inode:
        if path == self.root_path:
            return self.root
        directory, name = self._place(path)
        return directory.live[name]

    def _change_names(self, change: NameChange) -> None:
        change.apply(lambda directory: directory.live)
        change.needs = {directory.number for directory, *_ in [*change.puts, *change.removes]}
        self.names.append(change)

    def apply(self, event: Event) -> Change | None:
        """Take the next event; gives the change that it makes, if it makes one."""
        kind, index = event.kind, event.index
        self.made_durable = []
        if kind == Kind.MARK:
            return None
        change: Change | None = None
        if kind == Kind.OPEN:
            if event.flag:
                directory, name = self._place(event.path)
                inode = self._inode(False, event.path)
                change = NameChange(index, puts=[(directory, name, inode)])
            else:
                inode = self._find(event.path)
            self._open[event.pid, event.fd] = inode
        elif kind in (Kind.WRITE, Kind.TRUNCATE, Kind.ALLOCATE):
            inode = self._open[event.pid, event.fd]
            if kind == Kind.WRITE:
                change = FileChange(index, inode, event.a, event.data)
            elif kind == Kind.TRUNCATE:
                change = FileChange(index, inode, size=event.a)
            else:
                change = FileChange(index, inode, size=event.a + event.b, grows=True)
            inode.pending.append(change)
        elif kind == Kind.FLUSH_BEGIN:
            self._flushing[event.pid, event.a] = (self._open[event.pid, event.fd], index)
        elif kind == Kind.FLUSH_END:
            inode, begun = self._flushing.pop((event.pid, event.a))
            if event.flag == 0:
                self._flushed(inode, begun)
        elif kind == Kind.SYNCFS_BEGIN:
            self._flushing[event.pid, event.a] = (self.root, index)
        elif kind == Kind.SYNCFS_END:
            _, begun = self._flushing.pop((event.pid, event.a))
            if event.flag == 0:
                self._all_flushed(begun)
        elif kind == Kind.MKDIR:
            directory, name = self._place(event.path)
            change = NameChange(index, puts=[(directory, name, self._inode(True, event.path))])
        elif kind in (Kind.UNLINK, Kind.RMDIR):
            directory, name = self._place(event.path)
            change = NameChange(index, removes=[(directory, name, directory.live[name])])
        elif kind == Kind.RENAME:
            (source, old), (target, new) = map(self._place, event.paths)
            inode = source.live[old]
            change = NameChange(index, puts=[(target, new, inode)], removes=[(source, old, inode)])
        elif kind == Kind.LINK:
            (source, old), (target, new) = map(self._place, event.paths)
            change = NameChange(index, puts=[(target, new, source.live[old])])
        if isinstance(change, NameChange):
            self._change_names(change)
        return change

    def _flushed(self, inode: Inode, begun: int) -> None:
        if not inode.is_dir:
            while inode.pending and inode.pending[0].index < begun:
                change = inode.pending.pop(0)
                change.apply(inode.durable)
                self.made_durable.append(change)
            return
        left = []
        for renamed in self.names:
            if renamed.index < begun:
                renamed.needs.discard(inode.number)
            if renamed.needs:
                left.append(renamed)
            else:
                renamed.apply(lambda directory: directory.entries)
                self.made_durable.append(renamed)
        self.names = left

    def _all_flushed(self, begun: int) -> None:
        for inode in list(self._reachable()):
            self._flushed(inode, begun)
        for change in self.names:
            if change.index < begun:
                change.needs.clear()
        self._flushed(self.root, begun)
        self.made_durable.sort(key=lambda change: change.index)

    # -- states ---------------------------------------------------------------------------------

    def pending(self) -> list[Change]:
        """All that a power cut may take, oldest first. Files that no name leads to are left out."""
        changes: list[Change] = list(self.names)
        for inode in self._reachable():
            changes += inode.pending
        return sorted(changes, key=lambda change: change.index)

    def _reachable(self) -> Iterator[Inode]:
        """Files that have a name, or may have one after a power cut."""
        seen: set[int] = set()
        stack = [self.root, *(inode for change in self.names for _, _, inode in [*change.puts, *change.removes])]
        while stack:
            inode = stack.pop()
            if inode.number in seen:
                continue
            seen.add(inode.number)
            if inode.is_dir:
                stack += [*inode.entries.values(), *inode.live.values()]
            else:
                yield inode

    def state(self, keep: Keep) -> State:
        """What is on the disk when the fate of each pending change is as told."""
        entries: dict[int, dict[str, Inode]] = {}

        def of(directory: Inode) -> dict[str, Inode]:
            if directory.number not in entries:
                entries[directory.number] = dict(directory.entries)
            return entries[directory.number]

        for change in self.names:
            if keep(change):
                change.apply(of)
        state = State()
        self._walk(self.root, "", of, keep, state, {}, {self.root.number})
        return state

    def _walk(
        self,
        directory: Inode,
        at: str,
        of: Callable[[Inode], dict[str, Inode]],
        keep: Keep,
        state: State,
        linked: dict[int, str],
        above: set[int],
    ) -> None:
        for name, inode in sorted(of(directory).items()):
            path = f"{at}{name}"
            if inode.is_dir:
                if inode.number in above:
                    continue  # two of its names survived: it is where it was met first
                above.add(inode.number)
                state.directories.append(path)
                self._walk(inode, path + "/", of, keep, state, linked, above)
            elif inode.number in linked:
                state.links.append((linked[inode.number], path))
            else:
                linked[inode.number] = path
                state.files[path] = content_of(inode, keep)


def content_of(inode: Inode, keep: Keep) -> Content:
    if not inode.pending:
        return inode.durable
    content = inode.durable.copy()
    for change in inode.pending:
        fate = keep(change)
        if fate is True:
            change.apply(content)
        elif fate == SIZE_ONLY:
            content.resize(max(content.size, change.offset + len(change.data), change.size))
        elif fate and not isinstance(fate, bool | str):
            for start, end in fate:
                content.write(change.offset + start, change.data[start:end])
    return content


@dataclass(slots=True)
class State:
    """Files and directories, by path below the root. Good until the disk takes its next event."""

    directories: list[str] = field(default_factory=list)
    files: dict[str, Content] = field(default_factory=dict)
    links: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def of(cls, directory: Path) -> State:
        state = cls()
        for path in sorted(directory.rglob("*")):
            name = str(path.relative_to(directory))
            if path.is_dir():
                state.directories.append(name)
            else:
                state.files[name] = Content.of_file(path)
        return state

    def copy(self) -> State:
        """One that stays good."""
        files = {path: content.copy() for path, content in self.files.items()}
        return State(list(self.directories), files, list(self.links))

    def below(self, name: str) -> State:
        """The part of it in one directory."""
        cut = len(name) + 1

        def inside(path: str) -> bool:
            return path.startswith(name + "/")

        return State(
            [path[cut:] for path in self.directories if inside(path)],
            {path[cut:]: content for path, content in self.files.items() if inside(path)},
            [(there[cut:], path[cut:]) for there, path in self.links if inside(path)],
        )

    def put(self, directory: Path) -> None:
        """Make it so in an empty directory."""
        for name in self.directories:
            os.mkdir(directory / name)
        for name, content in self.files.items():
            content.put(f"{directory}/{name}")
        for there, name in self.links:
            os.link(directory / there, directory / name)

    def key(self) -> tuple[object, ...]:
        """Equal for equal states."""
        return (
            tuple(self.directories),
            tuple((name, content.size, hash(frozenset(content.pages.items()))) for name, content in self.files.items()),
            tuple(self.links),
        )


def by_sectors(random_: random.Random, survive: float) -> Keep:
    """Each sector of each write survives or not for itself; each other change as a whole."""

    def keep(change: Change) -> Fate:
        if isinstance(change, FileChange) and change.size < 0:
            if random_.random() < 0.1:
                return SIZE_ONLY
            return [sector for sector in change.sectors() if random_.random() < survive]
        return random_.random() < survive

    return remembered(keep)


def by_changes(random_: random.Random, survive: float) -> Keep:
    """Each change survives or not."""
    return remembered(lambda change: random_.random() < survive)


def remembered(keep: Keep) -> Keep:
    """Asks once for each change."""
    fates: dict[int, Fate] = {}

    def answer(change: Change) -> Fate:
        if change.index not in fates:
            fates[change.index] = keep(change)
        return fates[change.index]

    return answer
