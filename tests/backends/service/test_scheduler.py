import asyncio

from hypothesis import given
from hypothesis import strategies as st

from backends.service.scheduler import JobQueue, Ticket
from flux_core.messages import Lane

PLACES = st.lists(st.tuples(st.sampled_from(list(Lane)), st.integers(-2, 2)), max_size=12)


def ticket(number: int, lane: Lane = Lane.BULK, order: int = 0, engine: str = "e") -> Ticket:
    return Ticket(str(number), engine, lane, order, number)


@given(PLACES)
def test_interactive_goes_first_then_low_order_then_who_came_first(places: list[tuple[Lane, int]]):
    async def drain() -> list[str]:
        queue = JobQueue()
        for number, (lane, order) in enumerate(places):
            queue.put(ticket(number, lane, order))
        positions = queue.positions()
        taken = [await queue.take("e") for _ in places]
        assert [positions[job_id] for job_id in taken] == list(range(len(places)))
        return taken

    expected = sorted(
        range(len(places)), key=lambda n: (places[n][0] is not Lane.INTERACTIVE, places[n][1], n)
    )
    assert asyncio.run(drain()) == [str(number) for number in expected]


def test_engines_do_not_wait_for_each_other():
    async def main() -> None:
        queue = JobQueue()
        queue.put(ticket(1, engine="other"))
        mine = asyncio.create_task(queue.take("e"))
        assert await queue.take("other") == "1"
        queue.put(ticket(2))
        assert await mine == "2"

    asyncio.run(main())


def test_a_job_that_was_taken_out_is_not_handed_over():
    async def main() -> None:
        queue = JobQueue()
        queue.put(ticket(1))
        assert queue.remove("1")
        assert not queue.remove("1")
        queue.put(ticket(2))
        assert await queue.take("e") == "2"
        assert len(queue) == 0

    asyncio.run(main())
