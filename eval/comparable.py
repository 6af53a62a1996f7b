"""Whether two runs may be compared: the same methods, judges, people, prompt texts, pictures that
prompts begin with or are held to, and seeds.

A run is described by short digests, so that reports (of which only the JSON is at hand) are
compared like run folders.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eval.run_data import RunData

__all__ = ["describe", "mismatches", "same_methods"]

# Beyond this many people or texts a single digest stands for all of them.
_MOST = 1000
_NAMED = 3
_BY_ADDRESS = "address "


def describe(data: RunData) -> dict[str, Any]:
    """What has to be equal between two runs, for JSON.

    Returns:
        methods -> people, texts (by prompt and style), given (what prompts begin with and are held
        to, by prompt and style, of those that have it) and seeds as name -> digest, requests, and
        metric -> share of the requests that have a value; judges: metric -> network and revision.
    """
    samples = data.samples
    photos = _photos(data)
    methods: dict[str, Any] = {}
    for method in data.names("method"):
        own = samples["method"] == method
        texts: dict[str, set[str]] = {}
        given: dict[str, set[str]] = {}
        for prompt_id, style, text, what in zip(
            *(samples[name][own].tolist() for name in ("prompt_id", "style", "prompt", "given")),
            strict=True,
        ):
            texts.setdefault(f"{prompt_id}, {style}", set()).add(text)
            if what:
                given.setdefault(f"{prompt_id}, {style}", set()).add(what)
        people = dict.fromkeys(samples["identity_id"][own].tolist())
        methods[method] = {
            "people": _named({str(one): photos.get(one, "") for one in people}),
            "texts": _named({key: _digest(*sorted(words)) for key, words in texts.items()}),
            "given": _named({key: _digest_given(one) for key, one in given.items()}),
            "seeds": _named({str(seed): "" for seed in np.unique(samples["seed"][own])}),
            "requests": int(own.sum()),
            "shares": {
                name: float((~np.isnan(values[own])).mean()) for name, values in data.scores.items()
            },
        }
    judges = {name: f"{info.network} {info.revision}" for name, info in data.metrics.items()}
    return {"methods": methods, "judges": judges}


def same_methods(first: Sequence[str], second: Sequence[str]) -> list[tuple[str, str]]:
    """(name in the first run, name in the second) of what is compared.

    Runs of one method each are compared whatever their methods are called.
    """
    shared = [(name, name) for name in second if name in first]
    if not shared and len(first) == len(second) == 1:
        return [(first[0], second[0])]
    return shared


def mismatches(
    first: Mapping[str, Any], second: Mapping[str, Any], metrics: Sequence[str], lost: float
) -> list[str]:
    """One sentence for each thing that forbids or spoils the comparison.

    Args:
        first, second: of `describe`; the second is compared to the first.
        metrics: that are compared.
        lost: by how much the share of requests with a value may fall.
    """
    pairs = same_methods(list(first["methods"]), list(second["methods"]))
    found = [
        f"method {name!r} is missing"
        for name in first["methods"]
        if name not in [before for before, _ in pairs]
    ]
    for name in metrics:
        judges = [side["judges"].get(name) for side in (first, second)]
        if judges[1] is None or judges[0] is None:
            where = "the run" if judges[1] is None else "the run that it is compared to"
            found.append(f"metric {name!r} is missing in {where}")
        elif judges[0] != judges[1]:
            found.append(f"the judge of {name} was {judges[0]!r} and is {judges[1]!r}")
    for before, after in pairs:
        old, new = first["methods"][before], second["methods"][after]
        for what, words in (
            ("people", ("person", "other photos")),
            ("texts", ("prompt", "another text")),
            ("seeds", ("seed", "")),
        ):
            found += [f"{after}: {line}" for line in _changed(old[what], new[what], *words)]
        found += [f"{after}: {line}" for line in _given_changed(old, new)]
        if old["requests"] != new["requests"]:
            found.append(
                f"{after}: {old['requests']} requests became {new['requests']}, allowed: the same"
            )
        for name in metrics:
            shares = old["shares"].get(name), new["shares"].get(name)
            if None not in shares and shares[0] - shares[1] > lost:
                found.append(
                    f"{after}: {shares[1]:.1%} of the requests have a value of {name}, "
                    f"{shares[0]:.1%} had, allowed: {100 * lost:g} points less"
                )
    return list(dict.fromkeys(found))


def _changed(old: Mapping[str, str], new: Mapping[str, str], word: str, differs: str) -> list[str]:
    lines = []
    for kind, keys in (
        ("is missing", [key for key in old if key not in new]),
        ("is new", [key for key in new if key not in old]),
        (f"has {differs}", [key for key in new if key in old and old[key] != new[key]]),
    ):
        if keys:
            lines.append(f"{word} {_first(keys)} {kind}")
    return lines


def _given_changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Of prompts that both have. Reports of before there were such prompts have none of it."""
    was, now = old.get("given", {}), new.get("given", {})
    keys = [
        key
        for key in dict.fromkeys([*was, *now])
        if was.get(key) != now.get(key) and (key in old["texts"]) == (key in new["texts"])
    ]
    lines = []
    for by_address, words in (
        (False, "begins with another picture or strength, or is held to another control"),
        (
            True,
            "begins with or is held to something else, as far as its address tells: what lay there "
            "is not known",
        ),
    ):
        names = [
            key
            for key in keys
            if any(side.get(key, "").startswith(_BY_ADDRESS) for side in (was, now)) == by_address
        ]
        if names:
            lines.append(f"prompt {_first(names)} {words}")
    return lines


def _first(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return ", ".join(repr(key) for key in keys[:_NAMED]) + more


def _photos(data: RunData) -> dict[str, str]:
    """person -> digest of their aligned faces, as far as the run keeps them."""
    source = data.folder.dataset("embeddings")
    if source is None:
        return {}
    found = {}
    names = pa.array(data.names("identity_id"), pa.string())
    wanted = pc.field("identity_id").isin(names)
    for batch in source.to_batches(columns=["identity_id", "aligned"], filter=wanted):
        for row in batch.to_pylist():
            found[row["identity_id"]] = _digest(*row["aligned"])
    return found


def _named(values: dict[str, str]) -> dict[str, str]:
    if len(values) <= _MOST:
        return values
    parts = [part for key in sorted(values) for part in (key, values[key])]
    return {f"all {len(values)}": _digest(*parts)}


def _digest_given(texts: set[str]) -> str:
    # See `RunData`: a picture whose content is not known is named by its address.
    mark = _BY_ADDRESS if any(f"'{_BY_ADDRESS}" in text for text in texts) else ""
    return mark + _digest(*sorted(texts))


def _digest(*parts: str | bytes) -> str:
    whole = hashlib.blake2b(digest_size=8)
    for part in parts:
        whole.update(hashlib.blake2b(part.encode() if isinstance(part, str) else part).digest())
    return whole.hexdigest()
