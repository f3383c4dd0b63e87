"""Orders of rows in which a batch holds an image at most once, where that is possible.

Shapes: N rows of a pass, M batches.
"""

import numpy as np

_MAX_TRIES = 200  # random exchanges that are tried for one row


def spread_images(order: np.ndarray, image_ids: np.ndarray, sizes: list[int], rng: np.random.Generator) -> np.ndarray:
    """Rearrange the rows of a pass so that rows of one image fall into different batches.

    Few rows of a random order share their batch with a row of the same image. Each of them changes places with a random
    row, so the order stays about as random as it was. Where that does not succeed, the rows are dealt to the batches
    image by image, which succeeds wherever any arrangement does (Gale and Ryser's theorem).

    Args:
        order: ``(N,)`` rows in random order. Those beyond the last batch are left out of the pass.
        image_ids: ``(N,)`` image of each entry of ``order``.
        sizes: rows of each of the M batches.
        rng: of the exchanges.

    Returns:
        ``(N,)`` the same rows in another order.
    """
    images = np.unique(image_ids, return_inverse=True)[1]
    batches = _batch_numbers(len(order), sizes)
    most = np.bincount(images).max(initial=0)
    can_be_unique = most <= len(sizes) or len(order) > sum(sizes)
    places = _exchange(images, batches, len(sizes), rng) if can_be_unique else None
    if places is None:
        places = _deal(images, sizes, rng)
    rearranged: np.ndarray = order[places]
    return rearranged


def count_repeats(image_ids: np.ndarray, sizes: list[int]) -> int:
    """Return how many batches hold an image more than once.

    Args:
        image_ids: ``(N,)`` images of the rows in their order.
        sizes: rows of each of the M batches.
    """
    batches = _batch_numbers(len(image_ids), sizes)
    return len(np.unique(batches[_repeats(np.unique(image_ids, return_inverse=True)[1], batches, len(sizes))]))


def _batch_numbers(rows: int, sizes: list[int]) -> np.ndarray:
    """Return the ``(N,)`` batch of each place; M for places beyond the last batch."""
    numbers: np.ndarray = np.repeat(np.arange(len(sizes) + 1), [*sizes, rows - sum(sizes)])
    return numbers


def _repeats(images: np.ndarray, batches: np.ndarray, num_batches: int) -> np.ndarray:
    """Return the places whose batch holds the same image at an earlier place."""
    keys = batches * (images.max(initial=0) + 1) + images
    by_key = np.argsort(keys, kind="stable")
    is_repeat = keys[by_key][1:] == keys[by_key][:-1]
    repeats = np.sort(by_key[1:][is_repeat])
    places: np.ndarray = repeats[batches[repeats] < num_batches]
    return places


def _exchange(images: np.ndarray, batches: np.ndarray, num_batches: int, rng: np.random.Generator) -> np.ndarray | None:
    """Return the ``(N,)`` places from which to take the rows; None if a row finds no row to change places with."""
    images, places = images.copy(), np.arange(len(images))
    starts = np.searchsorted(batches, np.arange(num_batches + 2))

    def holds(batch: int, image: int) -> bool:
        """Return whether a batch holds an image; rows beyond the last batch never meet."""
        return batch < num_batches and bool((images[starts[batch] : starts[batch + 1]] == image).any())

    def is_repeated(place: int) -> bool:
        batch = batches[place]
        return int((images[starts[batch] : starts[batch + 1]] == images[place]).sum()) > 1

    for place in _repeats(images, batches, num_batches):
        if not is_repeated(place):  # an exchange for another row has moved the other one away
            continue
        for other in rng.integers(len(images), size=_MAX_TRIES):
            if batches[other] != batches[place] and not (
                holds(batches[other], images[place]) or holds(batches[place], images[other])
            ):
                images[[place, other]] = images[[other, place]]
                places[[place, other]] = places[[other, place]]
                break
        else:
            return None
    return places


def _deal(images: np.ndarray, sizes: list[int], rng: np.random.Generator) -> np.ndarray:
    """Return the ``(N,)`` places from which to take the rows, dealt to the batches image by image.

    Images with many rows come first, and each of their rows goes to the batch with the most room that does not hold the
    image yet. An image with more rows than there are batches comes more than once into some, as evenly as possible.
    """
    kept, left_out = _leave_out(images, sizes)
    room = np.array(sizes)
    content: list[list[int]] = [[] for _ in sizes]
    counts = np.bincount(images[kept], minlength=images.max() + 1)
    by_image = kept[np.lexsort((kept, _first_places(images)[images[kept]], -counts[images[kept]]))]
    rows_of_images = np.split(by_image, np.flatnonzero(np.diff(images[by_image])) + 1)
    for rows in rows_of_images:
        while len(rows):
            # The batches with the most room; a random fraction decides between equals.
            room_left = np.where(room > 0, room + rng.random(len(room)), 0)
            count = min(len(rows), int(np.count_nonzero(room)))
            chosen = np.argpartition(-room_left, count - 1)[:count]
            for batch, row in zip(chosen, rows, strict=False):
                content[batch].append(int(row))
            room[chosen] -= 1
            rows = rows[len(chosen) :]
    # A batch is shared by the ranks in its order, so its rows get back the random order that they had.
    places: np.ndarray = np.array(
        [place for batch in content for place in sorted(batch)] + left_out.tolist(), dtype=np.int64
    )
    return places


def _first_places(images: np.ndarray) -> np.ndarray:
    """Return the first place of each image."""
    return np.unique(images, return_index=True)[1]


def _leave_out(images: np.ndarray, sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the places that the batches use, and those that they leave out.

    Left out are first the rows of images that have more rows than there are batches, then the last rows.
    """
    surplus = len(images) - sum(sizes)
    by_image = np.argsort(images, kind="stable")
    starts = np.searchsorted(images[by_image], images[by_image])
    number_in_image = np.empty(len(images), dtype=np.int64)
    number_in_image[by_image] = np.arange(len(images)) - starts
    is_too_many = number_in_image >= len(sizes)
    order = np.lexsort((np.arange(len(images)), is_too_many))
    split = len(images) - surplus
    return np.sort(order[:split]), np.sort(order[split:])
