"""The samples of all rows that were measured, kept from one run to the next in a JSON file."""

import json
import os
import platform
import statistics
from pathlib import Path


def machine():
    """What a record's figures belong to."""
    cpu = "unknown processor"
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / 2**30),
        "system": f"{platform.system()} {platform.release()}",
    }


class Record:
    """`rows`: what is known of each row, by part, model, format, test and threads. A row measured
    again replaces the old one, so its sides always ran in turns."""

    def __init__(self, path):
        self.path = path
        self.machine, self.rows = None, {}
        if path.exists():
            stored = json.loads(path.read_text())
            self.machine = stored["machine"]
            self.rows = {key(row): row for row in stored["rows"]}

    def claim(self, here):
        """Figures of two machines do not stand in one table."""
        if self.machine not in (None, here):
            raise SystemExit(f"{self.path} is of another machine ({self.machine}): give another --out")
        self.machine = here

    def put(self, row):
        self.rows[key(row)] = row
        rows = ",\n".join(json.dumps(r) for r in self.rows.values())
        text = f'{{"machine": {json.dumps(self.machine)}, "rows": [\n{rows}\n]}}\n'
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(text)
        part.replace(self.path)

    def part(self, name):
        return [Figures(row) for row in self.rows.values() if row["part"] == name]


def key(row):
    return tuple(row[k] for k in ("part", "model", "format", "test", "threads"))


class Figures:
    """What follows from the samples of a row."""

    def __init__(self, row):
        self.row = row
        self.sides = row["samples"]

    def __getattr__(self, name):
        return self.row[name]

    def ours(self):
        return [side for side in self.sides if side.startswith("gristmill")]

    def peers(self):
        return [side for side in self.sides if not side.startswith(("gristmill", "reading"))]

    def values(self, side, field="value"):
        return [s[field] for s in self.sides.get(side, []) if s.get(field) is not None]

    def median(self, side, field="value"):
        values = self.values(side, field)
        return statistics.median(values) if values else None

    def best_peer(self, lower=False):
        """The peer with the best median, or None."""
        known = [(self.median(side), side) for side in self.peers() if self.values(side)]
        return (min if lower else max)(known)[1] if known else None

    def ratios(self, side, other):
        """Of the two in each round, in order of size."""
        return sorted(a / b for a, b in zip(self.values(side), self.values(other)))

    def ratio(self, side, other):
        ratios = self.ratios(side, other)
        return statistics.median(ratios) if ratios else None

    def share(self, side):
        """Of the ceiling that bounds the row, by the medians: a peer reads and computes as much a
        token as ours."""
        mine = [s for s in self.ours() if self.values(s, "share")]
        if not mine or not self.values(side):
            return None
        if side in mine:
            return self.median(side, "share")
        share = self.median(mine[0], "share")
        return share * self.median(side) / self.median(mine[0])
