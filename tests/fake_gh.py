#!/usr/bin/env python
"""Answer `gh api` as GitHub does, from the file `github.json` in the working directory.

    {"artifacts": [...], "comments": [...], "zips": {"7": "report.zip"}, "forbidden": ["POST"], "gone": ["7"]}

As the real command, it prints the body of an error to stdout, and one line with the status to stderr.
"""

from __future__ import annotations

import json
import re
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

STATE = Path("github.json")
REPOSITORY = "repos/owner/library/"


def fail(status: int, message: str) -> None:
    """Exit as `gh` does for an error of the server."""
    print(json.dumps({"message": message, "status": str(status)}))
    sys.exit(f"gh: {message} (HTTP {status})")


def page_of(items: list[Any], query: dict[str, list[str]]) -> list[Any]:
    """Return one page of a list, the first one by default."""
    size, page = int(query.get("per_page", ["30"])[0]), int(query.get("page", ["1"])[0])
    return items[(page - 1) * size : page * size]


def main() -> None:
    """Answer one request."""
    parser = ArgumentParser()
    parser.add_argument("api", choices=["api"])
    parser.add_argument("address")
    parser.add_argument("--method", default="GET")
    parser.add_argument("--input", type=Path)
    asked = parser.parse_args()
    state = json.loads(STATE.read_text(encoding="utf-8"))
    address = urlsplit(asked.address)
    query, path = parse_qs(address.query), address.path.removeprefix(REPOSITORY)
    assert path != address.path, f"{asked.address} is not of the repository"
    forbidden = state.get("forbidden", ())
    if asked.method in forbidden or path.partition("/")[0] in forbidden:
        fail(403, "Resource not accessible by integration")
    if path == "actions/artifacts":
        found = [item for item in state["artifacts"] if item["name"] in query["name"]]
        print(json.dumps({"total_count": len(found), "artifacts": page_of(found, query)}))
    elif zipped := re.fullmatch(r"actions/artifacts/(\d+)/zip", path):
        if zipped[1] in state.get("gone", ()):
            fail(410, "Artifact has expired")
        sys.stdout.buffer.write(Path(state["zips"][zipped[1]]).read_bytes())
    elif path == "issues/5/comments" and asked.method == "GET":
        print(json.dumps(page_of(state["comments"], query)))
    else:
        body = json.loads(asked.input.read_text(encoding="utf-8"))["body"]
        if len(body) > 65536:
            fail(422, "Validation Failed")
        if path == "issues/5/comments":
            assert asked.method == "POST"
            user = {"login": "github-actions[bot]"}
            state["comments"].append({"id": 900 + len(state["comments"]), "user": user, "body": body})
        else:
            assert asked.method == "PATCH"
            (comment,) = (item for item in state["comments"] if path == f"issues/comments/{item['id']}")
            comment["body"] = body
        STATE.write_text(json.dumps(state), encoding="utf-8")


if __name__ == "__main__":
    main()
