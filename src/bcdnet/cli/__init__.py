"""The `bcdnet` command; `bcdnet.cli.main` holds the table of verbs."""
