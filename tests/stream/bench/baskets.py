"""A small set of baskets in the files of The Complete Journey."""

import lzma
from pathlib import Path

import numpy as np

_DAY = 86_400


def write_baskets(directory: Path) -> Path:
    """Write 400 baskets of 20 households within 40 days; each household has items that it buys again and again."""
    rng = np.random.default_rng(5)
    rows = []
    for basket in range(400):
        user = int(rng.integers(20))
        items = {int(item) for item in rng.integers(0, 30, 2)} | {user, (7 * user) % 30}
        rows += [(user, item, basket * _DAY // 10, basket) for item in sorted(items)]
    with lzma.open(directory / "events.tsv.xz", "wt", encoding="utf-8") as out:
        out.write("user_id\titem_id\ttimestamp\tbasket_id\n")
        out.writelines("\t".join(map(str, row)) + "\n" for row in rows)
    with lzma.open(directory / "items.tsv.xz", "wt", encoding="utf-8") as out:
        out.write("product_id\tproduct_type\tmanufacturer_id\n")
        out.writelines(f"{item}\tkind-{item % 4}\t{item % 9}\n" for item in range(30))
    return directory
