"""What a shift does to the process around it."""

import gc
import threading

from flows.threads import COLLECTED_AFTER, rarely_collected


def test_the_garbage_collector_is_as_it_was_once_the_last_shift_is_over() -> None:
    before = gc.get_threshold()
    first, second = rarely_collected(), rarely_collected()
    with first:
        assert gc.get_threshold()[0] == COLLECTED_AFTER
        assert gc.get_freeze_count() > 0
        second.__enter__()
    assert gc.get_threshold()[0] == COLLECTED_AFTER, "another is still at work"
    second.__exit__(None, None, None)
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)


def test_shifts_in_many_threads() -> None:
    before = gc.get_threshold()

    def work() -> None:
        for _ in range(200):
            with rarely_collected():
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)
