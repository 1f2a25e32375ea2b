"""The report: one page about a run, made of what lies in its folder."""
