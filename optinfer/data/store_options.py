"""How a library of its own reaches a store: as s3fs reaches it here, whose settings come from the environment."""

from __future__ import annotations

import os

from optinfer.data.storage import file_system, is_local


def storage_options(url: str) -> dict[str, str]:
    """Return how a library of its own reaches a store, as s3fs reaches it here; nothing for a local path."""
    if is_local(url):
        return {}
    fs, _ = file_system(url)
    if "s3" not in fs.protocol:
        return {}
    endpoint = fs.endpoint_url or fs.client_kwargs.get("endpoint_url") or os.environ.get("AWS_ENDPOINT_URL")
    region = fs.client_kwargs.get("region_name") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    found = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true" if str(endpoint).startswith("http://") else None,
        "AWS_REGION": region or "us-east-1",
        "AWS_ACCESS_KEY_ID": fs.key,
        "AWS_SECRET_ACCESS_KEY": fs.secret,
        "AWS_SESSION_TOKEN": fs.token,
        "aws_conditional_put": "etag",
    }
    return {name: value for name, value in found.items() if value}
