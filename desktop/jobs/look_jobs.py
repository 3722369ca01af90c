"""The looks of the open documents on their way through the service: sent, carried on, answered.

It belongs to the controller's worker thread. A look lives until it is answered, cancelled or its document is
closed; a search for similar pictures may take several jobs, one after the other.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from dataclasses import replace

from desktop.jobs.answers import Answer
from desktop.jobs.embeddings import EmbeddingMemory
from desktop.jobs.job import JobMessage, JobWentOn, LookAnswered, Phase
from desktop.jobs.job_book import JobBook
from desktop.jobs.looks import Asked, Errand, PictureReader, answer_of, errand_for, local_answer
from desktop.jobs.service import Service
from desktop.jobs.similar import SimilarSearch
from desktop.jobs.wish import Action
from flux_core.errors import (
    ConnectionLost,
    FluxError,
    Internal,
    ModelMissing,
    OutOfMemory,
    RequestInvalid,
)
from flux_core.looking import Caption
from flux_core.messages import Finished, JobRecord


class LookJobs:
    """The looks that were not answered yet.

    Args:
        book: The controller's jobs.
        say: Receives the answers.
        memory: Pictures that were seen in earlier searches.
        service: The service, or None if there is none at the moment.
        on_record: Receives what the service says of a job.
        end: Ends a job (id, document id, error or None) without an answer.
    """

    def __init__(
        self,
        book: JobBook,
        say: Callable[[JobMessage], None],
        memory: EmbeddingMemory,
        service: Callable[[], Service | None],
        on_record: Callable[[JobRecord], None],
        end: Callable[[str, str, FluxError | None], None],
    ) -> None:
        self._book, self._say, self._memory = book, say, memory
        self._service, self._on_record, self._end = service, on_record, end
        self._reader = PictureReader()
        self._asked: dict[str, Asked] = {}
        self._errands: dict[str, Errand] = {}
        self._searches: dict[str, SimilarSearch] = {}

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._asked

    def begin(self, asked: Asked) -> None:
        """Takes a look up, unless it was cancelled already; without a service it waits for one."""
        if self._book.is_wanted(asked.job_id):
            self._asked[asked.job_id] = asked
            self._send(asked)
        elif self._book.get(asked.job_id) is not None:
            self._end(asked.job_id, asked.document_id, None)

    def take_up(self, document_id: str) -> None:
        """A service is there: what happened to the looks of a document meanwhile?"""
        service = self._service()
        for asked in [one for one in self._asked.values() if one.document_id == document_id]:
            if service is None:
                return
            try:
                if self._book.is_wanted(asked.job_id):
                    self._on_record(service.job(asked.job_id))
                else:
                    self._on_record(service.cancel(asked.job_id))
            except RequestInvalid:  # the service never heard of it
                self.begin(asked)
            except ConnectionLost:
                return

    def deliver(self, record: JobRecord, service: Service) -> None:
        """Makes an answer of a job's result, or goes on with the next job."""
        asked, finished = self._asked[record.job_id], record.finished
        try:
            if finished is None:
                raise Internal("The job ended without a result.", "Look into the service's log.")
            self._hear(asked, finished, service)
        except ConnectionLost:
            return  # asked for again when the service is back
        except FluxError as err:
            self._end(asked.job_id, asked.document_id, err)
            return
        self._settle(asked.job_id)

    def fail(self, job_id: str, error: FluxError) -> None:
        """A job failed; without a helper for captions, one that answers questions is asked to describe."""
        asked, errand = self._asked[job_id], self._errands.get(job_id)
        is_missing = isinstance(error, ModelMissing)
        if is_missing and errand is not None and isinstance(errand.request.look, Caption):
            self._settle(job_id)
            self._go_on(replace(asked, refusal=error))
            return
        first = asked.refusal if is_missing else None
        self._end(job_id, asked.document_id, first or error)

    def drop(self, document_id: str) -> None:
        """The document was closed, so nobody is there to hear the answers."""
        service = self._service()
        for asked in [one for one in self._asked.values() if one.document_id == document_id]:
            self.forget(asked.job_id)
            if service is not None:
                with contextlib.suppress(FluxError):
                    service.cancel(asked.job_id)

    def forget(self, job_id: str) -> None:
        """The look is over."""
        for kept in (self._asked, self._errands, self._searches):
            kept.pop(job_id, None)

    # -- on the way --------------------------------------------------------------------------------

    def _send(self, asked: Asked) -> None:
        try:
            record = self._bring_on(asked, self._service())
        except ConnectionLost:
            return  # sent when the service is back
        except FluxError as err:
            self._end(asked.job_id, asked.document_id, err)
        except MemoryError:
            error = OutOfMemory("There is too little memory to look at it.", "Choose a smaller picture.")
            self._end(asked.job_id, asked.document_id, error)
        else:
            if record is not None:
                self._on_record(record)

    def _bring_on(self, asked: Asked, service: Service | None) -> JobRecord | None:
        """What the service says of a look; None if it waits for one, or is answered already."""
        answer = local_answer(asked)
        if answer is not None:
            self._answer(asked, answer)
            return None
        if service is None:
            return None
        errand = self._errands.get(asked.job_id) or self._next_errand(asked, service)
        if errand is None:
            self._answer(asked, self._searches[asked.job_id].ranking(service.get_blob))
            return None
        self._errands[asked.job_id] = errand
        for blob in errand.blobs:
            service.put_blob(blob)
        return service.submit(errand.request, asked.job_id)

    def _next_errand(self, asked: Asked, service: Service) -> Errand | None:
        if asked.wish.action is not Action.SIMILAR:
            return errand_for(asked, self._reader)
        search = self._searches.get(asked.job_id)
        if search is None:
            records = service.jobs() if asked.wish.look.has_kept else ()
            search = self._searches[asked.job_id] = SimilarSearch(asked, records, self._memory)
        return search.next_errand()

    def _hear(self, asked: Asked, finished: Finished, service: Service) -> None:
        sent, search = self._errands[asked.job_id], self._searches.get(asked.job_id)
        if search is None:
            images = finished.images
            answer = answer_of(
                asked, sent, finished.findings, lambda number: service.get_blob(images[number].sha256)
            )
            self._answer(asked, answer)
            return
        search.hear(sent, finished.findings)
        self._go_on(asked, search)

    def _go_on(self, asked: Asked, search: SimilarSearch | None = None) -> None:
        """The look goes on as another job: the service knows each by an id of its own."""
        job = self._book.get(asked.job_id)
        following = replace(asked, job_id=str(uuid.uuid4()))
        self.forget(asked.job_id)
        self._book.drop(asked.job_id)
        if job is None or job.phase is Phase.CANCELLING:
            self._end(asked.job_id, asked.document_id, None)
            return
        if search is not None:
            self._searches[following.job_id] = search
        self._book.add(replace(job, id=following.job_id, phase=Phase.PREPARING, fraction=0.0))
        self._say(JobWentOn(asked.job_id, asked.document_id))
        self.begin(following)

    def _settle(self, job_id: str) -> None:
        """The service may forget a job."""
        service = self._service()
        if service is not None:
            with contextlib.suppress(FluxError):  # else its retention will do it
                service.ack(job_id)

    def _answer(self, asked: Asked, answer: Answer) -> None:
        if not self._book.is_wanted(asked.job_id):
            self._end(asked.job_id, asked.document_id, None)
            return
        self.forget(asked.job_id)
        self._book.drop(asked.job_id)
        self._say(LookAnswered(asked.job_id, asked.document_id, asked.wish, answer))
