"""A model before anything is made of it: its files, where they come from, and what they may not do."""
