#!/usr/bin/env python3
"""Draws the sample of flights and prints the answers that the tests compare with. Nothing but the standard library."""

import csv
import gzip
import io
import pathlib
import sys

EVERY = 17


def sample(lines):
    return [lines[0]] + [line for number, line in enumerate(lines[1:]) if number % EVERY == 0]


def carriers(lines):
    """Per carrier: rows, delays that are missing, sum, lowest and highest of the others."""
    found = {}
    for row in csv.DictReader(io.StringIO("".join(lines))):
        of = found.setdefault(row["carrier"], [])
        of.append(None if row["dep_delay"] in ("NA", "") else int(row["dep_delay"]))
    for name, delays in sorted(found.items()):
        known = [delay for delay in delays if delay is not None]
        yield name, len(delays), len(delays) - len(known), sum(known), min(known), max(known)


def others(lines):
    rows = list(csv.DictReader(io.StringIO("".join(lines))))
    missing = lambda name: sum(1 for row in rows if row[name] == "NA")
    yield "rows", len(rows)
    yield "arr_time missing", missing("arr_time")
    yield "tailnum missing", missing("tailnum")
    yield "air_time missing", missing("air_time")
    yield "distinct tailnum", len({row["tailnum"] for row in rows} - {"NA"})
    yield "distinct dest", len({row["dest"] for row in rows})
    yield "sum of distance", sum(int(row["distance"]) for row in rows)
    yield "first time_hour", min(row["time_hour"] for row in rows)
    yield "last time_hour", max(row["time_hour"] for row in rows)
    yield "late from JFK in July", sum(
        1
        for row in rows
        if row["origin"] == "JFK" and row["month"] == "7" and row["dep_delay"] != "NA" and int(row["dep_delay"]) > 60
    )


def main():
    with gzip.open(sys.argv[1], "rt", encoding="utf-8", newline="") as file:
        lines = file.readlines()
    if "--full" not in sys.argv:
        lines = sample(lines)
        packed = gzip.compress("".join(lines).encode(), 9, mtime=0)
        (pathlib.Path(__file__).parent / "flights-sample.csv.gz").write_bytes(packed)
    for name, rows, missing, total, low, high in carriers(lines):
        print(f'    Carrier::of("{name}", {rows}, {missing}, {total}, {low}, {high}),')
    for name, value in others(lines):
        print(f"{name}: {value}")


main()
