"""Workers that have nothing to do, and those who give them something; each in a process of its own, for `pickup`.

Each module has a `Waiter` and an `Adder`, made with the URL of a database. Moments are seconds of the clock that all
processes of a machine share (`time.monotonic`).
"""
