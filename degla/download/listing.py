"""The lines that the console prints about data sets: the list and the check."""

from collections.abc import Iterable, Iterator, Mapping

from degla.download.catalogue import Catalogue, DataSet
from degla.download.inventory import Finding, Inventory

_ORDER = ("missing", "incomplete", "changed", "here")


def state_of(data_set: DataSet, findings: Iterable[Finding]) -> str:
    """Return one word for a data set.

    Args:
        data_set: of the catalogue.
        findings: of its files.

    Returns:
        ``here``, ``missing``, ``incomplete``, ``changed``, or ``by hand`` where there is no address.
    """
    states = {finding.state for finding in findings}
    if states == {"here"}:
        return "here"
    if not data_set.files:
        return "by hand"
    return "incomplete" if "here" in states and states <= {"here", "missing"} else min(states, key=_ORDER.index)


def list_lines(catalogue: Catalogue, inventory: Inventory) -> Iterator[str]:
    """Yield the list of all data sets, two lines each.

    Args:
        catalogue: what there is.
        inventory: what is here.
    """
    for name, data_set in catalogue.data_sets.items():
        state = state_of(data_set, inventory.find_all(data_set))
        uses = ", ".join(catalogue.users(name))
        yield f"{name:<22} {human_size(data_set.size):>8}  {state:<10}  {uses}"
        yield f"    {data_set.title}; {data_set.licence}; {data_set.source}"
        for more in (data_set.by_hand, data_set.note):
            if more:
                yield f"    {more}"


def check_lines(catalogue: Catalogue, findings: Mapping[str, list[Finding]]) -> Iterator[str]:
    """Yield one line for each recipe and benchmark: whether its data are here, else one hint.

    Args:
        catalogue: what there is.
        findings: of every data set that was looked at.
    """
    for use, names in catalogue.uses.items():
        if not set(names) <= set(findings):
            continue
        states = {name: state_of(catalogue.data_sets[name], findings[name]) for name in names}
        fetchable = [name for name, state in states.items() if state not in ("here", "by hand")]
        by_hand = [name for name, state in states.items() if state == "by hand"]
        hints = []
        if fetchable:
            odd = [f"{name} {states[name]}" for name in fetchable if states[name] != "missing"]
            hints.append(f"{', '.join(odd) or 'missing'}: degla-data get=[{','.join(fetchable)}]")
        if by_hand:
            hints.append(f"by hand, as degla-data says: {', '.join(by_hand)}")
        yield f"{use:<32} {'; '.join(hints) or 'here'}"


def human_size(num_bytes: int) -> str:
    """Return a human-readable size, such as ``816 MB``.

    Args:
        num_bytes: 0 where the size is not known.
    """
    if not num_bytes:
        return "-"
    size = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
