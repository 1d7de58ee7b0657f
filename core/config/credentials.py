"""Finds keys, tokens and passwords in text that is stored and shown to others.

Grids, profiles and batch scripts are read by everybody who reads the results. A secret is
recognised by the name it is assigned to, by its form, or by the command it is passed to;
references such as `$NAME` and `$(command)` are not secrets. Torch-free.
"""

from __future__ import annotations

import re

ADVICE = "looks like a secret: keep it out of files, use `wandb login` (~/.netrc) instead"

# WANDB_API_KEY, HF_TOKEN, GITHUB_PAT, PGPASSWORD ... but neither TOKENIZERS_PARALLELISM nor
# HF_TOKEN_PATH nor NCCL_IB_PKEY
_NAME = re.compile(
    r"(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|APIKEY|SSHPASS)\d*$"
    r"|(^|[_-])(KEY|KEY_ID)\d*$|[_-](PAT|PWD|PASS|AUTH)\d*$",
    re.IGNORECASE,
)
_SHAPE = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}"
    r"|\b(AKIA|ASIA)[A-Z0-9]{16}\b|\bAIza[\w-]{30,}|\bsk-[\w-]{20,}|\bxox[abprs]-[\w-]{10,}"
    r"|\bwandb_v\d+_\w{20,}|\blocal-[0-9a-f]{40}\b|\bpypi-[\w-]{30,}"
    r"|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}"  # a JSON web token
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|://[^/\s:@]*:[^/\s@$]+@"  # https://user:password@host
)
_WANDB = re.compile(r"(?<![\w/@.-])[0-9a-f]{40}(?![\w/-])")
_COMMIT = re.compile(r"\bgit\b|commit|revision|\bsha", re.IGNORECASE)
"""Words on a line whose 40 hex digits are a commit, not a W&B key."""
_GIVEN = r"""["']?(?![$`"'<>|&;#-])\S"""  # a literal word, not a variable or an option
_COMMAND = re.compile(
    rf"\bwandb\s+login\s+((--host|-h)[ =]\S+\s+|--?[\w-]+\s+)*{_GIVEN}"
    rf"|--?(token|password|passwd|api[_-]?key|secret|pat)(\s+|=){_GIVEN}"
    rf"|\bAuthorization:\s*(\w+\s+)?{_GIVEN}|\bcurl\b.*\s(-u|--user)\s+[^\s:]+:{_GIVEN}"
    rf"|\baws_(secret_access_key|session_token)\s+{_GIVEN}"
    rf"|\blogin\s+\S+\s+password\s+{_GIVEN}",
    re.IGNORECASE,
)
_ASSIGNED = re.compile(rf"([\w-]+)={_GIVEN}")


def is_name(name: str) -> bool:
    """Whether a variable or key of this name holds a secret."""
    return _NAME.search(name) is not None


def is_value(text: str) -> bool:
    """Whether a line of text contains something that has the form of a secret."""
    key = _WANDB.search(text) and not _COMMIT.search(text)
    return bool(key) or _SHAPE.search(text) is not None


def is_command(line: str) -> bool:
    """Whether a line of shell script passes a secret to a command, or contains one."""
    named = any(is_name(match[1]) for match in _ASSIGNED.finditer(line))
    return named or is_value(line) or _COMMAND.search(line) is not None
