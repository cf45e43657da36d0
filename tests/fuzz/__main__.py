"""`python -m tests.fuzz --cases N [--seed S] [--target NAME] [--case K]`: see `run`."""

from tests.fuzz.run import main

raise SystemExit(main())
