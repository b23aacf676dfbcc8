"""A shop's orders with everything that real files have: who sends theirs back?"""

from __future__ import annotations

import numpy as np
import pandas as pd


def orders(rows: int = 1500, months: int = 3, seed: int = 0) -> pd.DataFrame:
    """Orders with odd names, gaps, identifiers, constants, and a column that is only known afterwards."""
    random = np.random.default_rng(seed)
    days = np.sort(random.integers(0, 30 * months, rows))
    created = pd.Timestamp("2024-03-01 08:00") + pd.to_timedelta(days, unit="D")
    created += pd.to_timedelta(random.integers(0, 12 * 60, rows), unit="min")
    amount, vip = random.gamma(2, 50, rows).round(2), random.random(rows) < 0.3
    returned = random.random(rows) < 1 / (1 + np.exp(-(amount - 100) / 30 + 2 * vip))
    return pd.DataFrame(
        {
            "Order ID": [f"A-{number:06}" for number in range(rows)],
            "Created At": created.strftime("%d.%m.%Y %H:%M"),
            "Amount (EUR)": pd.Series(amount).where(np.arange(rows) % 17 > 0),
            "VIP?": np.where(vip, "yes", "no"),
            "City": random.choice(["Bonn", "Köln", "Ulm", "?"], rows),
            "post_code": [f"{number:05}" for number in random.integers(0, 99_999, rows)],
            "Signed up": (created - pd.to_timedelta(random.integers(1, 900, rows), unit="D")).strftime("%d.%m.%Y"),
            "Paid on": (created + pd.to_timedelta(random.integers(1, 90, rows), unit="D")).strftime("%d.%m.%Y"),
            "currency": "EUR",
            "note": None,
            "partition": random.choice(["north", "south"], rows),
            "age": random.integers(18, 80, rows),
            "refund": np.where(returned, amount * 0.5 + 1, 0).round(2),
            "Returned": np.where(returned, "Y", "N"),
        }
    )
