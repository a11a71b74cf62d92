"""What becomes of a submission, case by case, and which test of test_submit.py shows it; docs/submit.md has the table."""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    """What happens, what it gives, the command's exit code, and the test without its `test_`."""

    happens: str
    gives: str
    code: str
    test: str

    @property
    def row(self) -> str:
        return f"| {self.happens} | {self.gives} | {self.code} |"


CASES = [
    Case(
        "a job",
        "`optinfer-NAME-FINGERPRINT-1`; the run's answer on stdout; every row once",
        "0",
        "a_job_is_sent_followed_and_answered_and_the_next_one_has_the_next_number",
    ),
    Case(
        "the same job again",
        "`…-2`; `nothing to do`",
        "0",
        "a_job_is_sent_followed_and_answered_and_the_next_one_has_the_next_number",
    ),
    Case("no such table", "the run's own message; `failed, exit code 2`", "2", "the_exit_code_is_the_jobs_own"),
    Case("too many rows quarantined", "no answer on stdout", "3", "too_many_quarantined_rows_end_3"),
    Case(
        "no variant passes its gate",
        "with `--json`, `result.message` has the reason",
        "4",
        "the_exit_code_is_the_jobs_own",
    ),
    Case(
        "another job's output, `--retries 2`",
        "an id of its own; not tried again",
        "5",
        "an_output_of_another_job_ends_5_and_is_not_tried_again",
    ),
    Case(
        "the cluster has no such command as `--python` names",
        "`name its interpreter with --python`",
        "127",
        "a_command_that_the_cluster_has_not_is_named_with_its_option",
    ),
    Case(
        "submitted while it is live",
        "attached; both tell every line of the log once",
        "0, 0",
        "a_job_that_is_live_is_attached_to",
    ),
    Case("submitted twice at the same moment", "one id, one job", "0, 0", "two_at_once_are_one_job"),
    Case("the same id sent twice", "Ray takes the first and refuses the second", "–", "an_id_is_taken_once"),
    Case("`--no-wait`", "the id; the job is running", "0", "no_wait_prints_the_id"),
    Case(
        "Ctrl-C, then submitted again",
        "detached, the job goes on; then attached to, with its whole log",
        "130, then 0",
        "an_interrupt_detaches_and_says_how_to_attach_again",
    ),
    Case(
        "SIGTERM to the command, then submitted again",
        "the same",
        "130, then 0",
        "an_interrupt_detaches_and_says_how_to_attach_again",
    ),
    Case(
        "`--stop` while another follows with `--retries 3`",
        "stopped, its process is gone; not brought back",
        "0; the follower 130",
        "stop_ends_a_job_for_whoever_follows_it_and_nobody_brings_it_back",
    ),
    Case(
        "`--stop` of a job that is not live",
        "`nothing to stop`, `status` is `NONE`",
        "0",
        "stop_ends_a_job_for_whoever_follows_it_and_nobody_brings_it_back",
    ),
    Case(
        "`--stop` after the file was changed",
        "names the live job with another fingerprint, and leaves it",
        "0",
        "stop_names_live_jobs_of_the_name_whose_file_has_changed",
    ),
    Case(
        "every connection cut in the middle, then back",
        "`asking again`, `connected again`; no line lost, none twice",
        "0",
        "a_connection_that_is_cut_loses_and_doubles_no_line",
    ),
    Case(
        "the dashboard killed and started again",
        "the same; one job",
        "0",
        "a_dashboard_that_is_killed_and_started_again_changes_nothing",
    ),
    Case("the driver killed", "`killed by SIGKILL`", "1", "a_killed_driver_ends_1_and_says_by_what"),
    Case(
        "the driver killed, `--retries 2`",
        "goes on as `…-2`; every row once",
        "0",
        "a_killed_driver_is_resumed_where_retries_are_allowed",
    ),
    Case(
        "the driver gets SIGTERM, `--retries 1`",
        "ends 130, goes on as `…-2`",
        "0",
        "an_interrupt_from_outside_is_resumed_too",
    ),
    Case(
        "bytes in the log that are no text",
        "said once; followed by the job's state",
        "0",
        "a_log_that_is_no_text_is_said_once_and_the_job_is_followed_by_its_state",
    ),
    Case(
        "`RAY_AUTH_MODE=token` and no token",
        "refused with the three ways to give one; nothing is sent",
        "2",
        "a_token_that_is_missing_or_wrong_is_refused_with_the_fix",
    ),
    Case(
        "no `RAY_AUTH_MODE`, and the cluster wants a token",
        "the same",
        "2",
        "a_token_that_is_missing_or_wrong_is_refused_with_the_fix",
    ),
    Case(
        "a wrong token",
        "`does not take this token`; nothing is sent",
        "2",
        "a_token_that_is_missing_or_wrong_is_refused_with_the_fix",
    ),
    Case("the token in `--header` or `RAY_JOB_HEADERS`", "taken", "0", "a_header_may_carry_the_token"),
    Case(
        "nobody at `http://…`, at `HOST:PORT`, at `ray://…`",
        "refused, with the forms of an address",
        "1",
        "an_address_with_nobody_there_is_refused_at_once",
    ),
    Case(
        "`--address`, with a variable that leads nowhere",
        "the option is taken",
        "0",
        "the_option_stands_above_the_variables_and_each_says_who_named_it",
    ),
    Case(
        "a variable that leads nowhere",
        "refused by the name of the variable",
        "1",
        "the_option_stands_above_the_variables_and_each_says_who_named_it",
    ),
    Case(
        "a certificate of an authority of one's own",
        "refused; taken with `--verify FILE` or `--verify false`",
        "1, 0, 0",
        "a_certificate_is_looked_at_unless_told_otherwise",
    ),
]
