"""Who else may use the Ray that a job uses: whoever may, runs code there. Told without joining it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from optinfer.errors import OptinferError
from optinfer.execution.reach import chosen

_DASHBOARD, _PORT = "RAY_API_SERVER_ADDRESS", 8265
_SECONDS = 3.0
_SEE = "docs/security.md says who may reach what"


def require_guarded(address: str | None) -> str:
    """Return what guards Ray at an address, None for the one that is started here.

    Raises:
        OptinferError: nothing does; says what to do.
    """
    said = _own_token()
    where, _ = chosen(address)
    if where is None:
        if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
            raise OptinferError(
                "RAY_AUTH_MODE=disabled: every user of this machine may run code in a Ray that is started here; unset "
                "it, or set RAY_AUTH_MODE=token"
            )
        return f"Ray started here listens on this machine alone and asks for a token; {said}"
    return f"{_guard_of(_dashboard(where))}; {said}"


def token_file() -> Path:
    """Return where Ray keeps its token."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def _own_token() -> str:
    file = token_file()
    try:
        open_to_others = _others_read(file)
    except OSError:
        return f"there is no {file}"
    if open_to_others:  # which is how Ray writes it
        return f"{file} CAN BE READ BY OTHERS, and who has it runs code on the cluster: `chmod 600 {file}`"
    return f"{file} is its owner's alone"


def _others_read(file: Path) -> bool:
    """Tell whether the group or everybody may read a file, and pass through the folders above it."""
    mode, above = file.stat().st_mode, [folder.stat().st_mode for folder in file.absolute().parents]
    ways = ((stat.S_IRGRP, stat.S_IXGRP | stat.S_IXOTH), (stat.S_IROTH, stat.S_IXOTH))
    return any(mode & read and all(folder & passes for folder in above) for read, passes in ways)


def _dashboard(where: str) -> str:
    """Return where the dashboard of a cluster is: as the variable says, else at its usual port."""
    if named := os.environ.get(_DASHBOARD, "").strip():
        return named.rstrip("/")
    host = where.rpartition("://")[2].rpartition(":")[0]
    return f"http://{host or '127.0.0.1'}:{_PORT}"


def _guard_of(dashboard: str) -> str:
    import requests

    url = f"{dashboard}/api/jobs/"
    try:
        session = requests.Session()
        session.trust_env = False  # no proxy, and no password of a .netrc
        status = session.get(url, timeout=_SECONDS, allow_redirects=False).status_code
    except requests.RequestException as error:
        return f"no dashboard answers at {dashboard} ({type(error).__name__})"
    if status in (401, 403):
        return f"{dashboard} asks for a token"
    raise OptinferError(
        f"{dashboard} answers {status} without a token: whoever reaches it runs code there (CVE-2023-48022); start the "
        f"cluster with RAY_AUTH_MODE=token, or close the port; {_SEE}"
    )
