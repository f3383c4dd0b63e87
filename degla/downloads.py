"""``degla-data`` and ``python -m degla.downloads``: list, fetch and check the data of recipes and benchmarks."""

import logging
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from degla.cli.main import run_program
from degla.errors import DataError

log = logging.getLogger(__name__)


def main() -> None:
    """Run the program with the command line's arguments."""
    run_program("downloads", downloads)


def downloads(cfg: DictConfig) -> None:
    """List, fetch or check data sets as the config says.

    Args:
        cfg: the composed ``downloads.yaml``.

    Raises:
        ConfigError: a name is unknown, or the file of addresses does not follow its schema.
        DataError: a file cannot be downloaded, or the check found damage.
    """
    from degla.download.catalogue import ADDRESSES, read_catalogue
    from degla.download.fetch import fetch, lock_data_dir
    from degla.download.inventory import Inventory
    from degla.download.listing import check_lines, list_lines, state_of

    catalogue = read_catalogue(Path(cfg.addresses) if cfg.addresses else ADDRESSES)
    inventory = Inventory(Path(cfg.data_dir))
    names = catalogue.choose(_names(cfg["get"]))
    if cfg.check:
        chosen = names or list(catalogue.data_sets)
        findings = {name: inventory.find_all(catalogue.data_sets[name], read_all=True) for name in chosen}
        print(*check_lines(catalogue, findings), sep="\n")
        # Without get, a missing data set is not an error: few people need all of them.
        faults = [
            finding.reason
            for found in findings.values()
            for finding in found
            if finding.state == "changed" or (finding.state != "here" and names)
        ]
        if faults:
            raise DataError(f"{len(faults)} files or folders failed the check; the first: {faults[0]}")
        return
    if not names:
        print(*list_lines(catalogue, inventory), sep="\n")
        print("\ndegla-data get=[sugarcrepe,coco_val2017] fetches, check=true verifies what is here (docs/data.md).")
        return
    with lock_data_dir(Path(cfg.data_dir)):
        for name in names:
            data_set = catalogue.data_sets[name]
            if not data_set.files:
                log.warning(f"{name}: {data_set.by_hand}")
                continue
            fetch(
                name,
                data_set,
                inventory,
                force=cfg.force,
                retries=cfg.retries,
                timeout_seconds=cfg.timeout_seconds,
                keep_archives=cfg.keep_archives,
            )
            print(f"{name}: {state_of(data_set, inventory.find_all(data_set))}")
            if data_set.note:
                print(f"    {data_set.note}")


def _names(value: ListConfig | str | None) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [str(name) for name in value or ()]


if __name__ == "__main__":
    main()
