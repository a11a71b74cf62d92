"""One replica, without Ray: rows to features to outputs to rows, timed."""
