"""`python -m bcdnet` is `bcdnet`."""

from bcdnet.cli.main import main

if __name__ == "__main__":
    main()
