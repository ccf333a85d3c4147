"""Who stands for a record: Ed25519 signatures (RFC 8032) over its content and the log it is meant for.

What is signed is JSON (RFC 8259) in one form: keys sorted, no spaces, UTF-8, so
that anybody can check it with openssl and a JSON tool. It names the kind of
record and the log, so a signature is good for one thing, in one life of the log.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import TypeVar

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import CryptoError

from infra.control.identity import subject_of_public
from infra.control.records import Approver, Consent, Policy, Signature, Switch

Signed = TypeVar("Signed", Policy, Consent, Switch)
APPROVALS = 2
"""Approvers that allowing more needs."""
_SIGNATURE_BYTES = 64
_KEY, _SIGNATURE = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{128}")
"""In one spelling: a key that could be written in two ways could count as two people's."""


def payload(record: Policy | Consent | Switch, log: str) -> bytes:
    """Return the bytes that are signed: all that a record says but its signatures and, of a policy, who applied it."""
    content = record.content() if isinstance(record, Policy) else record
    said = {name: value for name, value in asdict(content).items() if name != "signatures"}
    said |= {"kind": type(record).__name__.lower(), "log": log}
    return json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(record: Policy | Consent | Switch, log: str) -> str:
    """Return the SHA-256 of what is signed, hex: it names one record of one log."""
    return hashlib.sha256(payload(record, log)).hexdigest()


def public_of(seed: bytes) -> str:
    """Return the public key of a key file's 32 bytes, hex."""
    return crypto_sign_seed_keypair(seed)[0].hex()


def sign(record: Signed, log: str, *seeds: bytes) -> Signed:
    """Return the record with a signature of each key added; one that signed already signs anew."""
    said = payload(record, log)
    given = {each.key: each for each in record.signatures}
    for seed in seeds:
        public, secret = crypto_sign_seed_keypair(seed)
        given[public.hex()] = Signature(public.hex(), crypto_sign(said, secret)[:_SIGNATURE_BYTES].hex())
    return replace(record, signatures=tuple(given.values()))


def signers(record: Policy | Consent | Switch, log: str) -> frozenset[str]:
    """Return the public keys of those whose signature on the record is valid."""
    if not record.signatures:
        return frozenset()
    said = payload(record, log)
    return frozenset(each.key for each in record.signatures if _is_valid(each, said))


def approvals(
    record: Policy | Consent | Switch, log: str, approvers: Iterable[Approver], at_ms: int
) -> tuple[str, ...]:
    """Return the names of the approvers who have signed, whose keys were good at `at_ms` (UTC epoch ms); sorted."""
    signed = signers(record, log)
    return tuple(sorted({a.name for a in approvers if a.key in signed and (not a.until or at_ms < a.until)}))


def is_own(consent: Consent, log: str) -> bool:
    """Whether the subject has signed it: whose identifier comes from the key that did."""
    return any(subject_of_public(key) == consent.subject for key in signers(consent, log))


def _is_valid(signature: Signature, said: bytes) -> bool:
    if not _KEY.fullmatch(signature.key) or not _SIGNATURE.fullmatch(signature.signature):
        return False
    try:
        crypto_sign_open(bytes.fromhex(signature.signature) + said, bytes.fromhex(signature.key))
    except CryptoError:
        return False
    return True
