"""Where replicas run and how fragments reach them."""
