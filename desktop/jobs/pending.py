"""Jobs on disk, from the press of the button until their layer is safe in a saved document.

Each job is a folder with all that is needed to send it again and to place its answer, so a crash of the
window, of the service or of the machine in between loses nothing. A folder that cannot be read is left
alone and skipped.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from desktop.jobs.plan import Prepared
from desktop.jobs.wish import Action
from flux_core.errors import Corrupt, FluxError
from flux_core.imaging.geometry import Box
from flux_core.imaging.inpaint import InpaintPlan
from flux_core.request import parse_request
from flux_core.storage import write_atomically

_RECORD = "job.json"
_ARRAYS = "arrays.npz"
_IMAGE = "image.png"
_MASK = "mask.png"
_BLOB = "blob-{number}.png"


@dataclass(frozen=True, slots=True, eq=False)
class PendingJob:
    """A job and the document that waits for it."""

    job_id: str
    document_id: str
    prepared: Prepared


class PendingStore:
    """The folder of pending jobs.

    Args:
        folder: Made when the first job is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, job: PendingJob) -> None:
        """Writes a job down; raises StorageFull or RequestInvalid if that is not possible."""
        place = self._folder / job.job_id
        place.mkdir(parents=True, exist_ok=True)
        plan = job.prepared.plan
        arrays = BytesIO()
        np.savez_compressed(arrays, work_mask=plan.work_mask, alpha=plan.alpha, piece=job.prepared.piece)
        write_atomically(place / _ARRAYS, arrays.getvalue())
        write_atomically(place / _IMAGE, job.prepared.image_png)
        write_atomically(place / _MASK, job.prepared.mask_png)
        for number, blob in enumerate(job.prepared.blobs):
            write_atomically(place / _BLOB.format(number=number), blob)
        record = {
            "version": 2,
            "document_id": job.document_id,
            "action": job.prepared.action.value,
            "request": json.loads(job.prepared.request.model_dump_json()),
            "picture_size": plan.picture_size,
            "box": _numbers(plan.box),
            "core": _numbers(plan.core),
            "work": (plan.work_width_px, plan.work_height_px),
            "is_colour_matched": plan.is_colour_matched,
            "num_blobs": len(job.prepared.blobs),
            "is_laid_back": job.prepared.is_laid_back,
            "rest": [json.loads(request.model_dump_json()) for request in job.prepared.rest],
        }
        write_atomically(place / _RECORD, json.dumps(record, indent=1).encode())

    def read(self, job_id: str) -> PendingJob | None:
        """A job that was kept; None if there is none.

        Raises:
            Corrupt: Its folder cannot be read.
        """
        place = self._folder / job_id
        if not (place / _RECORD).is_file():
            return None
        try:
            record: dict[str, Any] = json.loads((place / _RECORD).read_bytes())
            with np.load(BytesIO((place / _ARRAYS).read_bytes()), allow_pickle=False) as arrays:
                plan = InpaintPlan(
                    picture_size=(int(record["picture_size"][0]), int(record["picture_size"][1])),
                    box=Box(*map(int, record["box"])),
                    work_width_px=int(record["work"][0]),
                    work_height_px=int(record["work"][1]),
                    work_mask=arrays["work_mask"],
                    core=Box(*map(int, record["core"])),
                    alpha=arrays["alpha"],
                    is_colour_matched=bool(record["is_colour_matched"]),
                )
                piece = arrays["piece"]
            prepared = Prepared(
                action=Action(record["action"]),
                request=parse_request(json.dumps(record["request"])),
                image_png=(place / _IMAGE).read_bytes(),
                mask_png=(place / _MASK).read_bytes(),
                plan=plan,
                piece=piece,
                blobs=tuple(
                    (place / _BLOB.format(number=number)).read_bytes()
                    for number in range(int(record.get("num_blobs", 0)))
                ),
                is_laid_back=bool(record.get("is_laid_back", True)),
                rest=tuple(parse_request(json.dumps(request)) for request in record.get("rest", ())),
            )
            return PendingJob(job_id, str(record["document_id"]), prepared)
        except (OSError, EOFError, BadZipFile, ValueError, LookupError, TypeError, FluxError) as err:
            raise Corrupt(f"The notes of job {job_id[:8]} cannot be read.", "Start the job again.") from err

    def ids(self) -> tuple[str, ...]:
        """Every job that is kept."""
        if not self._folder.is_dir():
            return ()
        names = (place.name for place in sorted(self._folder.iterdir()) if (place / _RECORD).is_file())
        return tuple(name for name in names if _is_uuid(name))

    def of_document(self, document_id: str) -> Iterator[PendingJob]:
        """The readable jobs of one document."""
        for job_id in self.ids():
            try:
                job = self.read(job_id)
            except Corrupt:
                continue
            if job is not None and job.document_id == document_id:
                yield job

    def forget(self, job_id: str) -> None:
        """Removes a job; one that is not there is fine."""
        place = self._folder / job_id
        (place / _RECORD).unlink(missing_ok=True)  # first, so that half a folder is no job
        shutil.rmtree(place, ignore_errors=True)


def _numbers(box: Box) -> tuple[int, int, int, int]:
    return box.x0, box.y0, box.x1, box.y1


def _is_uuid(name: str) -> bool:
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False
