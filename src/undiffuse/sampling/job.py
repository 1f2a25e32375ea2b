"""Drawing many images as a whole job on a folder, begun or continued. A face drives it; nothing is printed here.

DIR/job.json says what was asked for. Images come in blocks aligned to their index, each whole under its files' names or
not there at all, so that the folder itself says what is missing.
"""

import functools
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from undiffuse import images
from undiffuse.errors import Interrupted, UndiffuseError, UsageError
from undiffuse.files.blocks import BLOCK_FORMATS
from undiffuse.files.drawn import JOB, LABELS
from undiffuse.files.writing import check_writable, write_text
from undiffuse.pipeline import Pipeline
from undiffuse.processes import lock, ranks, signals
from undiffuse.sampling.request import Request, read_job
from undiffuse.shapes import Watch, unwatched, watch_items

ASIDE = ".*.writing*"  # what a kill may leave of a file that was being written
GO_ON = "go on with the same command"


@dataclass
class Job:
    """The images of a request that a folder lacks, shared by the processes of one command.

    mine, others: blocks that this process and the others have yet to draw.
    """

    pipe: Pipeline
    request: Request
    out: Path
    mine: list[range]
    others: list[range]
    finished: bool

    @property
    def done(self) -> int:
        """Images that are there, of all."""
        self.others = [rows for rows in self.others if not self._is_there(rows)]
        return self.request.n - sum(map(len, self.mine)) - sum(map(len, self.others))

    def run(self, watch: Watch = unwatched) -> None:
        """Draw what is missing; `watch` sees how many images are done, one after the other as a block goes its steps.

        Raises Interrupted at once when SIGINT or SIGTERM comes, and UndiffuseError when the disk is full; in both cases
        nothing but the present block is lost.
        """
        if self.finished:
            return
        try:
            with signals.stopping_at_once() as check:
                for _ in watch_items(watch, self._counted(check), self.request.n - self.done, "image"):
                    pass
                if ranks.rank() == 0:
                    self._finish()
        except KeyboardInterrupt:
            if ranks.rank():
                raise SystemExit(Interrupted.exit_code) from None  # process 0 says it for all
            raise Interrupted(f"stopped with {self._where()}; {GO_ON}") from None
        except OSError as error:
            place = error.filename2 or error.filename
            where = "" if place is None else f"{place}: "
            why = f"{where}{error.strerror or error}, with {self._where()}"
            raise UndiffuseError(f"{why}; once that is mended, {GO_ON}") from error

    def _counted(self, check: Callable[[], None]) -> Iterator[int]:
        """1, 2, 3 ... to all images, as the work goes on; `check` raises KeyboardInterrupt if a signal asked for it."""
        told = self.done
        for done in self._work():
            check()
            yield from range(told + 1, done + 1)
            told = max(told, done)

    def _work(self) -> Iterator[int]:
        """Draw every block of this process, then wait for the others: how many images are done meanwhile."""
        while self.mine:
            yield from self._draw(self.mine[0])
        for _ in ranks.meeting():
            yield self.done

    def _draw(self, rows: range) -> Iterator[int]:
        asked, before = self.request, self.done
        steps = len(asked.times) - 1
        frames = self.pipe.stream(len(rows), asked.seed, rows.start, asked.given, asked.batch_size)
        for step, (_, frame) in enumerate(frames, 1):
            if frame.t == 0:
                pictures = images.to_hwc(frame.x, asked.levels)
                BLOCK_FORMATS[asked.format].write(self.out, rows, pictures, asked.labels(rows))
                self.mine.remove(rows)
            yield before + len(rows) * step // steps

    def _finish(self) -> None:
        """Nothing left that was aside; labels beside pictures; and job.json says that all is there."""
        for left in self.out.glob(ASIDE):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        if (text := self.request.labels_text()) is not None:
            write_text(self.out / LABELS, text)
        self.request.write(self.out, finished=True)
        self.finished = True

    def _is_there(self, rows: range) -> bool:
        return (self.out / BLOCK_FORMATS[self.request.format].names(rows)[-1]).exists()

    def _where(self) -> str:
        return f"{self.done:,} of {self.request.n:,} images in {self.out}"


@contextmanager
def open_job(pipe: Pipeline, request: Request, out: Path) -> Iterator[Job]:
    """The job in this folder, begun if it is not there, and nobody else's meanwhile.

    Raises UsageError, with nothing changed, for a folder that holds something else, another job, or one that is being
    worked on; UndiffuseError for a job.json that cannot be read.
    """
    with lock.alone(out) as claim:
        todo, finished = ranks.from_first(lambda: (claim(), _begin(request, out))[1])
        if ranks.rank():
            claim()
        rank, count = ranks.rank(), ranks.count()
        others = [rows for i, rows in enumerate(todo) if i % count != rank]
        yield Job(pipe, request, out, todo[rank::count], others, finished)


def check_folder(out: Path) -> None:
    """Refuse a place where no job can begin or go on: before the model is loaded, not after."""
    if not out.exists():
        if out.is_symlink():
            raise UsageError(f"{out}: is a link to {out.readlink()}, which is not there; make it, or remove the link")
        check_writable(out.parent)
    elif not out.is_dir() or (not (out / JOB).exists() and any(not path.match(ASIDE) for path in out.iterdir())):
        raise UsageError(f"{out}: exists already, and no sampling job made it; choose another folder")


def _begin(request: Request, out: Path) -> tuple[list[range], bool]:
    """The blocks that are missing, and whether nothing at all is, after job.json is written."""
    check_folder(out)
    known = read_job(out)
    if known is not None and (other := request.difference(known[0])):
        if any(not path.name.startswith(".") and path.name != JOB for path in out.iterdir()):
            raise UsageError(f"{out}: holds another job, which differs in {other}; choose another folder")
        known = None  # of which no image is there yet
    _check_strangers(request, out)
    todo = [rows for rows in request.blocks() if not BLOCK_FORMATS[request.format].holds(out, rows)]
    finished = known is not None and known[1] and not todo and _has_labels(request, out)
    if not finished and (known is None or known[1]):
        request.write(out, finished=False)
    return todo, finished


def _check_strangers(request: Request, out: Path) -> None:
    """Files that a reader of the folder would take for the job's own."""
    names = functools.cache(lambda rows: {*BLOCK_FORMATS[request.format].names(rows)})

    def ours(name: str) -> bool:
        row = re.match("[0-9]{1,12}", name)
        rows = row and request.block(int(row[0]))
        return rows is not None and name in names(rows)

    for path in out.iterdir():
        if path.suffix.lower() == f".{request.format}" and path.name[0] != "." and not ours(path.name):
            raise UsageError(f"{out}: {path.name} in it is not of this job; move it away, or choose another folder")


def _has_labels(request: Request, out: Path) -> bool:
    text, path = request.labels_text(), out / LABELS
    if text is None:
        return True
    return (
        path.is_file()
        and path.stat().st_size == len(text.encode())
        and path.read_text("utf-8", errors="replace") == text
    )
