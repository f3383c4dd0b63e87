"""The store of answers: truncated files, shared folders, keys."""

from degla.hard_negatives.store import Answer, Store, answer_key


def answer(i: int, **fields) -> Answer:
    return Answer(
        answer_key(f"caption {i}", "swap_nouns", "1", "m", 0, 1), f"caption {i}", "swap_nouns", [f"täxt {i}"], **fields
    )


def test_answers_survive_truncation_at_any_offset(tmp_path):
    store = Store(tmp_path)
    for i in range(20):
        store.add(answer(i))
    store.close()
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    ends = [i for i, byte in enumerate(whole) if byte == 10]
    for cut in range(0, len(whole), 37):
        path.write_bytes(whole[:cut])
        again = Store(tmp_path)
        count = sum(end < cut for end in ends)
        assert len(again) == count and again.num_truncated == (cut > 0 and whole[cut - 1] != 10)
        assert all(again.get(answer(i).key) == answer(i) for i in range(count))
    path.write_bytes(whole[:-5])
    more = Store(tmp_path)
    more.add(answer(19))
    assert more.get(answer(19).key) == answer(19) and more.get(answer(3).key) == answer(3)
    more.close()
    assert len(Store(tmp_path)) == 20 and len(list(tmp_path.iterdir())) == 2


def test_jobs_share_a_folder(tmp_path):
    one, two = Store(tmp_path), Store(tmp_path)
    one.add(answer(1))
    two.add(answer(2))
    one.close(), two.close()
    both = Store(tmp_path)
    assert answer(1).key in both and answer(2).key in both and len(list(tmp_path.iterdir())) == 2


def test_answers_that_are_not_final_are_requested_again_but_kept(tmp_path):
    store = Store(tmp_path)
    store.add(answer(1, failure="no answer within 1 s", is_final=False))
    store.close()
    again = Store(tmp_path)
    assert answer(1).key not in again and [a.failure for a in again.failures()] == ["no answer within 1 s"]
    again.add(answer(1))
    again.close()
    assert not list(Store(tmp_path).failures())


def test_keys_depend_on_everything_that_decides_an_answer():
    fields = ("caption", "swap_nouns", "1", "m", 0, 1)
    changed = [("other", *fields[1:]), ("caption", "swap_adjectives", *fields[2:]), (*fields[:2], "2", *fields[3:]),
               (*fields[:3], "n", 0, 1), (*fields[:4], 1, 1), (*fields[:5], 2), (*fields, 1)]  # fmt: skip
    assert len({answer_key(*fields), *(answer_key(*other) for other in changed)}) == 8
