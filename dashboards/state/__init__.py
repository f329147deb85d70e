"""What the pages compute, one subject a file: what can be asked, and cached functions that answer it.

One model serves all sessions: interventions are arguments, so nobody's change reaches anybody else. What is cached is
never written to. Caches are bounded; the largest entries are recordings of about 60 MB.
"""
