"""Turns a job into a submission, or into text that somebody else's scheduler runs; nothing of ours keeps running.

`optinfer submit` (command, asked) packs a job (packing, code), finds or sends it (submission; jobs: the contract with a
cluster; jobs_api: Ray's) and follows it to its end (following, outcome). rayjob writes a KubeRay manifest.
`optinfer schedule` (schedule, checked by cron) renders files for what starts jobs (targets).
"""
