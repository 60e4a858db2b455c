"""Many clients that wait at once, against a real server: nobody else waits with them, and they may go away."""

import asyncio
import time

import httpx

from tests.load import shared

WAITING = 100
"""More than the 40 threads that a server runs plain handlers in."""
SOON_S = 0.3
"""Whoever asks for ``/info/`` meanwhile has it within this time."""


async def everybody_waits(url: str) -> tuple[int, int, float]:
    """Have many wait for a segmentation; return how many jobs wait while others are answered, and after they left.

    The third number is how long most of those others waited for their answer, in seconds.
    """
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False, limits=limits) as client:

        async def waiting() -> int:
            jobs = (await client.get("/jobs")).json()
            return sum(job["state"] in ("queued", "running") for job in jobs)

        asked = [
            asyncio.create_task(client.post("/infer/kidney_liver", params={"image": "P-001__ct"}))
            for _ in range(WAITING)
        ]
        end = time.monotonic() + 300
        while await waiting() < WAITING // 2 and not all(task.done() for task in asked):
            assert time.monotonic() < end
        waits = []
        for _ in range(20):
            began = time.monotonic()
            (await client.get("/info/")).raise_for_status()
            waits.append(time.monotonic() - began)
        (await client.get("/datastore/", params={"output": "all"})).raise_for_status()
        while_waiting = await waiting()
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        while await waiting():
            assert time.monotonic() < end
            await asyncio.sleep(0.2)
        return while_waiting, await waiting(), sorted(waits)[len(waits) // 2]


def test_those_who_wait_for_an_inference_hold_up_nobody_and_their_jobs_go_with_them(server):
    while_waiting, after, wait_s = asyncio.run(everybody_waits(server.url))
    assert while_waiting > 40, "others were answered while more waited than there are threads"
    assert after == 0
    assert wait_s < shared(SOON_S)
