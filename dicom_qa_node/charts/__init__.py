"""Control charts and scanners: baselines, drift, alerts and counters."""
