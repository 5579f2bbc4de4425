"""Runs statements on SQLite: one JSON string a line in, one JSON array a line out."""
import json
import sqlite3
import sys

db = sqlite3.connect(":memory:", isolation_level=None)
db.execute("PRAGMA case_sensitive_like = ON")
print(json.dumps(["ready", sqlite3.sqlite_version_info[:2]]), flush=True)
for line in sys.stdin:
    try:
        cursor = db.execute(json.loads(line))
        rows = cursor.fetchall()
        answer = ["rows", rows] if cursor.description else ["changed", cursor.rowcount]
    except sqlite3.Error as error:
        answer = ["error", str(error)]
    print(json.dumps(answer), flush=True)
