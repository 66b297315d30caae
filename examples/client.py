"""Use a running cluster's key-value store: python client.py tcp:127.0.0.1:7001 ..."""

import sys

from twisted.internet.task import react

from raft import RaftClient, RaftError


async def main(_reactor: object, *endpoints: str) -> None:
    client = RaftClient(endpoints)
    try:
        await client.write(["set", "greeting", "hello"])
        print(await client.read(["get", "greeting"]))
        swapped = await client.write(["cas", "greeting", "hello", "goodbye"])
        print("swapped" if swapped else "somebody else was faster")
    except RaftError as error:
        # Its class says what may be done: see the table of outcomes.
        print(type(error).__name__, error)
    finally:
        await client.close()


if __name__ == "__main__":
    react(main, sys.argv[1:] or ["tcp:127.0.0.1:7001"])
