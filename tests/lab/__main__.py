"""``python -m lab``, which is what ``scripts/lab`` runs."""

from .cli import main

raise SystemExit(main())
